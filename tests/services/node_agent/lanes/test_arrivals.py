"""The wake-up that the streams of a port share."""

from __future__ import annotations

import asyncio

from services.node_agent.lanes.arrivals import Arrivals


async def test_everybody_who_waits_is_woken_once() -> None:
    """All waiters return at the next `tell`; one that comes afterwards waits for the one after."""
    arrivals = Arrivals()
    waiting = [asyncio.ensure_future(arrivals.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    arrivals.tell()
    late = asyncio.ensure_future(arrivals.wait())
    await asyncio.gather(*waiting)
    await asyncio.sleep(0)
    assert not late.done()
    arrivals.tell()
    await late
