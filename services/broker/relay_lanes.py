"""Declares and removes each port's queues on the relay, also when the broker or RabbitMQ stops meanwhile.

The wanted state is stored in the transaction of the saga's step (`want`); `LaneKeeper` brings it about and marks it
done. Both are idempotent, so that doing it twice, even by two brokers, does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from services.broker.tables import lane_jobs
from shared.bus import BusDown, LaneAdmin, LaneEnds
from shared.logs import get_logger
from shared.parties import Party
from shared.store import Store, StoreDown, Transaction

log = get_logger(__name__)

Wanted = Literal["open", "extended", "extension", "closed"]
"""The port's lanes; these and its network extension's; that one alone, when the port is over; none."""
_WITH_PORT = frozenset({"open", "extended"})
_WITH_EXTENSION = frozenset({"extended", "extension"})


async def want(tx: Transaction, ends: LaneEnds, wanted: Wanted) -> None:
    """Store the wanted state of a port's queues; call `LaneKeeper.wake` after the commit."""
    values = {
        "port_id": ends.port_id,
        "donor_node": str(ends.donor_node),
        "recipient_node": str(ends.recipient_node),
        "wanted": wanted,
        "done": False,
    }
    await tx.upsert(lane_jobs, values, key=("port_id",))


class LaneKeeper:
    """One task per broker: ``await keeper.run()`` until cancelled."""

    def __init__(
        self,
        store: Store,
        admin: LaneAdmin,
        on_opened: Callable[[Transaction, UUID], Awaitable[None]],
        *,
        poll_s: float = 10.0,
        retry_s: float = 1.0,
    ) -> None:
        self._store = store
        self._admin = admin
        self._on_opened = on_opened
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something new is wanted."""
        self._wake.set()

    async def run(self) -> None:
        """Bring about what is wanted, as it is stored; try again what has failed."""
        while True:
            self._wake.clear()
            wait_s = self._poll_s
            try:
                await self.work()
            except (BusDown, StoreDown, SQLAlchemyError, TimeoutError) as error:
                log.warning("lanes unavailable; trying again", error=str(error))
                wait_s = self._retry_s
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def work(self) -> None:
        """Bring about everything that is wanted now, once."""
        async with self._store.reading() as connection:
            rows = list(await connection.execute(select(lane_jobs).where(~lane_jobs.c.done)))
        for row in rows:
            ends = LaneEnds(row.port_id, Party.parse(row.donor_node), Party.parse(row.recipient_node))
            if row.wanted in _WITH_PORT:
                await self._admin.open_lanes(ends)
            else:
                await self._admin.close_lanes(ends)
            if row.wanted in _WITH_EXTENSION:
                await self._admin.open_extension(ends)
            else:
                await self._admin.close_extension(ends)
            await self._settle(row.port_id, row.wanted)

    async def _settle(self, port_id: UUID, did: str) -> None:
        """Mark the wish as done. If it changed meanwhile, what was done may have undone the newer one: do that
        again.
        """
        async with self._store.transaction() as tx:
            mine = (lane_jobs.c.port_id == port_id) & (lane_jobs.c.wanted == did)
            if (await tx.execute(update(lane_jobs).where(mine).values(done=True))).rowcount == 1:
                if did in _WITH_PORT:
                    await self._on_opened(tx, port_id)
                return
            await tx.execute(update(lane_jobs).where(lane_jobs.c.port_id == port_id).values(done=False))
            tx.after_commit(self.wake)
