"""Forgets old rows of outbox and inbox, a few per transaction. What is old is the caller's to say."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Delete, Select, delete, select, tuple_

from shared.store.store import Store
from shared.store.tables import inbox, outbox

BATCH = 200
"""Rows that one transaction forgets: on SQLite all others wait for it."""


async def prune(store: Store, *, sent_before: datetime, received_before: datetime) -> None:
    """Delete messages that were published, and inbox marks that were made, before these times."""
    sent = select(outbox.c.id).where(outbox.c.sent_at < sent_before)
    await _delete(store, delete(outbox), outbox.c.id, sent)
    mark = (inbox.c.sender, inbox.c.message_id)
    received = select(*mark).where(inbox.c.received_at < received_before)
    await _delete(store, delete(inbox), tuple_(*mark), received)


async def _delete(store: Store, statement: Delete, key: ColumnElement[Any], old: Select[Any]) -> None:
    gone = BATCH
    while gone == BATCH:
        async with store.transaction() as tx:
            gone = (await tx.execute(statement.where(key.in_(old.limit(BATCH))))).rowcount
