"""Opens a service's store at its start: what only a person can mend is a `ConfigError`, so that no restart is tried.

A database that is away is no such thing: the process ends as for a crash, and its supervisor starts it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.config import ConfigError, Problem
from shared.parties import Party
from shared.store.engine import StoreFileUnusable
from shared.store.settings import StoreSettings
from shared.store.store import Store


@asynccontextmanager
async def open_store(settings: StoreSettings, party: Party) -> AsyncIterator[Store]:
    """The store while the block runs. Raises `ConfigError` for a file that cannot be used, else `StoreUnusable`."""
    store = Store(settings.url.get_secret_value(), party)
    try:
        try:
            await store.open()
        except StoreFileUnusable as error:
            raise ConfigError((Problem("store.url", "", error.reason),)) from error
        yield store
    finally:
        await store.close()
