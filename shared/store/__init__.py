"""Durable state of a service: one transaction holds the state's change, the inbox mark and the outgoing messages.

``Store`` opens the database and gives transactions, ``OutboxRelay`` publishes what was committed, ``TimerRunner``
calls back when a stored deadline passes. The tables of the service itself are the service's own; nothing here knows
what they mean.
"""

from shared.store.engine import (
    StoreDown,
    StoreFileUnusable,
    StoreUnusable,
    UnstorableValue,
    UtcDateTime,
    async_url,
    upsert,
)
from shared.store.opening import open_store
from shared.store.relay import OutboxRelay, RelayPolicy
from shared.store.settings import StoreSettings
from shared.store.store import Outgoing, Store, Transaction, utc_now
from shared.store.tables import inbox, outbox, store_metadata, timers
from shared.store.timer_runner import Timer, TimerRunner

__all__ = [
    "OutboxRelay",
    "Outgoing",
    "RelayPolicy",
    "Store",
    "StoreDown",
    "StoreFileUnusable",
    "StoreSettings",
    "StoreUnusable",
    "Timer",
    "TimerRunner",
    "Transaction",
    "UnstorableValue",
    "UtcDateTime",
    "async_url",
    "inbox",
    "open_store",
    "outbox",
    "store_metadata",
    "timers",
    "upsert",
    "utc_now",
]
