"""What is done beside transfers, and for which ports nothing is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from uuid import UUID

from services.node_agent.transfers.housekeeping import Housekeeping
from shared.tasks import Tasks

PORT = UUID(int=3)


class Work:
    """Both things that are kept in order."""

    def __init__(self) -> None:
        self.swept: asyncio.Queue[tuple[UUID, ...]] = asyncio.Queue()
        self.removed: asyncio.Queue[tuple[UUID, ...]] = asyncio.Queue()

    async def sweep(self, active: Collection[UUID]) -> None:
        self.swept.put_nowait(tuple(active))

    async def remove_again(self, active: Callable[[], Collection[UUID]]) -> None:
        self.removed.put_nowait(tuple(active()))


async def test_swept_at_the_start_and_when_told_and_removed_again_and_again() -> None:
    work, active = Work(), [PORT]
    async with asyncio.timeout(10), Tasks("test") as tasks:
        keeping = Housekeeping(work, work, active=lambda: active, tasks=tasks, remove_again_s=0.001)
        keeping.start()
        assert await work.swept.get() == (PORT,)
        assert [await work.removed.get() for _ in range(3)] == [(PORT,)] * 3
        active.clear()
        keeping.sweep()
        assert await work.swept.get() == ()
