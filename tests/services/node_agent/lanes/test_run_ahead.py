"""The queue of payloads before the lane: in order, bounded by the lead, empty when nothing may lead."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from services.node_agent.lanes.run_ahead import AHEAD_BYTES, READER_LEAD_BYTES, RunAhead
from services.node_agent.lanes.stream import LaneStream


class SlowStream:
    """A stream that takes a payload only when a test says so."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, int | None, int]] = []
        self.permits = asyncio.Semaphore(0)

    async def write(self, data: bytes, *, raw_bytes: int | None = None, raw_lead_bytes: int = 0) -> None:
        await self.permits.acquire()
        self.taken.append((data, raw_bytes, raw_lead_bytes))


async def test_without_a_lead_a_write_returns_when_the_lane_has_it() -> None:
    """Nothing is queued, and the stream is told of no lead."""
    stream = SlowStream()
    ahead = RunAhead(cast("LaneStream", stream))
    writing = asyncio.ensure_future(ahead.write(b"page", raw_bytes=4096, lead=0.0))
    await asyncio.sleep(0)
    assert not writing.done()
    assert ahead.queued_bytes == 0
    stream.permits.release()
    await writing
    assert stream.taken == [(b"page", 4096, 0)]


@pytest.mark.parametrize("lead", [1.0, 0.5])
async def test_a_lead_bounds_what_is_queued(lead: float) -> None:
    """Writes return at once up to that part of AHEAD_BYTES; the next one waits; the order is kept to the end."""
    stream = SlowStream()
    ahead = RunAhead(cast("LaneStream", stream))
    size = AHEAD_BYTES // 4
    fitting = int(4 * lead)
    for number in range(fitting):
        await ahead.write(bytes([number]) * size, raw_bytes=size, lead=lead)
    assert ahead.queued_bytes == ahead.queued_raw_bytes == fitting * size
    last = asyncio.ensure_future(ahead.write(b"last", raw_bytes=4, lead=lead))
    running = asyncio.ensure_future(ahead.run())
    await asyncio.sleep(0)
    assert not last.done()
    stream.permits.release()
    await last
    closing = asyncio.ensure_future(ahead.close())
    for _ in range(fitting):
        stream.permits.release()
    await asyncio.gather(closing, running)
    assert [data[:1] for data, _, _ in stream.taken] == [bytes([number]) for number in range(fitting)] + [b"l"]
    assert {raw_lead for _, _, raw_lead in stream.taken} == {round(lead * READER_LEAD_BYTES)}
    assert ahead.queued_bytes == ahead.queued_raw_bytes == 0


async def test_the_raw_size_bounds_the_queue_too() -> None:
    """A few bytes of references that stand for very much wait like much."""
    stream = SlowStream()
    ahead = RunAhead(cast("LaneStream", stream))
    writing = asyncio.ensure_future(ahead.write(b"refs", raw_bytes=1 << 40, lead=1.0))
    await asyncio.sleep(0)
    assert not writing.done()
    running = asyncio.ensure_future(ahead.run())
    stream.permits.release()
    await writing
    await ahead.close()
    await running
