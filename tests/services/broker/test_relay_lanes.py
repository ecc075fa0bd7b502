"""Wishes for the relay's lanes are carried out, however often the bus or the broker stop meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import get_args
from uuid import UUID

import pytest
from sqlalchemy import select

from services.broker import ledger
from services.broker.migrate import migrate
from services.broker.relay_lanes import LaneKeeper, Wanted, want
from services.broker.tables import lane_jobs
from shared.bus import BusDown, LaneEnds
from shared.parties import BROKER, node
from shared.store import Store, Transaction
from shared.testing import breathe
from shared.testing_lanes import MemoryLaneAdmin
from tests.support.broker_samples import PORT, Conversation, request

ENDS = LaneEnds(PORT, node("alpha", "alpha-1"), node("beta", "beta-1"))


class Admin(MemoryLaneAdmin):
    """Fails at first, and may be interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def open_lanes(self, ends: LaneEnds) -> None:
        """Open them, if the bus is there."""
        if self.failures:
            self.failures -= 1
            raise BusDown
        await super().open_lanes(ends)
        if self.meanwhile is not None:
            await self.meanwhile()
            self.meanwhile = None


class Opened:
    """Whom the keeper tells."""

    def __init__(self) -> None:
        self.ports: list[UUID] = []

    async def __call__(self, tx: Transaction, port_id: UUID) -> None:
        """In the transaction that marks the wish as done."""
        assert tx.party == BROKER
        self.ports.append(port_id)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A ledger with one port."""
    async with Store(f"sqlite:///{tmp_path}/ledger.db", BROKER) as opened:
        await migrate(opened)
        async with opened.transaction() as tx:
            await ledger.add(tx, Conversation.begin(request()).state)
        yield opened


async def wish(store: Store, wanted: Wanted) -> None:
    """Store a wish."""
    async with store.transaction() as tx:
        await want(tx, ENDS, wanted)


async def is_done(store: Store) -> bool:
    """Whether no wish is left."""
    async with store.reading() as connection:
        return not (await connection.execute(select(lane_jobs).where(~lane_jobs.c.done))).all()


async def test_lanes_are_opened_and_closed(store: Store) -> None:
    """Only an opening is told, once."""
    admin, opened = Admin(), Opened()
    keeper = LaneKeeper(store, admin, opened)
    await wish(store, "open")
    await keeper.work()
    await keeper.work()
    assert (admin.open, opened.ports) == ({ENDS.port_id: ENDS}, [ENDS.port_id])
    await wish(store, "closed")
    await keeper.work()
    assert (admin.open, admin.closed, opened.ports) == ({}, [ENDS.port_id], [ENDS.port_id])
    assert await is_done(store)


async def test_an_extension_outlives_its_port(store: Store) -> None:
    """Its lane comes with the port's, which is told once, stays when these go, and goes at last."""
    admin, opened = Admin(), Opened()
    keeper = LaneKeeper(store, admin, opened)
    found = []
    for wanted in get_args(Wanted)[1:]:
        await wish(store, wanted)
        await keeper.work()
        found.append((len(admin.open), len(admin.extensions), len(opened.ports)))
    assert found == [(1, 1, 1), (0, 1, 1), (0, 0, 1)]
    assert await is_done(store)


async def test_a_wish_waits_for_the_bus(store: Store) -> None:
    """It is tried again by itself, and a new one wakes the keeper."""
    admin, opened = Admin(), Opened()
    admin.failures = 2
    keeper = LaneKeeper(store, admin, opened, retry_s=0.01)
    running = asyncio.get_running_loop().create_task(keeper.run())
    await wish(store, "open")
    keeper.wake()
    async with asyncio.timeout(10):
        while not opened.ports:
            await breathe()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (admin.failures, list(admin.open)) == (0, [ENDS.port_id])


async def test_a_wish_that_changed_meanwhile_is_carried_out_again(store: Store) -> None:
    """What was opened while it was to be closed is closed, and nobody is told that it is open."""
    admin, opened = Admin(), Opened()
    keeper = LaneKeeper(store, admin, opened)
    await wish(store, "open")
    admin.meanwhile = lambda: wish(store, "closed")
    await keeper.work()
    assert not await is_done(store)
    await keeper.work()
    assert (admin.open, opened.ports) == ({}, [])
    assert await is_done(store)
