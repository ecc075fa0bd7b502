"""A control lane in memory, for the questions that the donor's node asks over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.testing import MemoryRoute, PlainSeal
from shared.page_stream.bodies import LaneRole


@asynccontextmanager
async def lane(recipient: Callable[[LaneStream], Awaitable[None]]) -> AsyncIterator[LaneSession]:
    """The donor's end of a control lane, whose next stream `recipient` serves."""
    route = MemoryRoute()
    near, far = (
        LaneSession(link, LaneSettings(lane="p.control", role=role), seal=PlainSeal())
        for link, role in ((route.a, LaneRole.INITIATOR), (route.b, LaneRole.ACCEPTOR))
    )

    async def serve() -> None:
        await recipient(await far.accept())

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        tasks = [loop.create_task(work) for work in (near.run(), far.run(), serve())]
        try:
            yield near
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
