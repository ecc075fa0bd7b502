"""A ledger for the tests of the modules that use one; once per database engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_ledger import open_ledger
from tests.support.broker_samples import NOW
from tests.support.broker_world import World


@pytest.fixture
def clock() -> ManualClock:
    """Stands still at the time of the samples, unless a test moves it."""
    return ManualClock(NOW)


@pytest.fixture
async def store(store_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """A migrated ledger that knows one VM of acme at alpha, and beta's capacity."""
    async with open_ledger(store_url, clock) as opened:
        yield opened


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A running broker."""
    async with World(f"sqlite:///{tmp_path}/ledger.db") as made:
        yield made
