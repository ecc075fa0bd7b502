"""A ledger for the tests of the modules that use one; once per database engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_ledger import open_ledger


@pytest.fixture
def clock() -> ManualClock:
    """Stands still."""
    return ManualClock()


@pytest.fixture
async def store(store_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """A migrated ledger that knows one VM of acme at alpha, and beta's capacity."""
    async with open_ledger(store_url, clock) as opened:
        yield opened
