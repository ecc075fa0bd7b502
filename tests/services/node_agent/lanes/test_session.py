from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.node_agent.lanes.core.errors import (
    LaneAbortedError,
    LaneCancelledError,
    LaneClosedError,
    LaneError,
    LaneRouteError,
    LaneSilentError,
    LaneViolationError,
    PeerRestartedError,
    StreamResetError,
)
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.routes.link import LaneLink
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.testing import Fate, MemoryRoute, PlainSeal
from shared.page_stream.bodies import LaneRole, StreamKind
from shared.page_stream.frame import FrameType, decode_frame

PAYLOAD_BYTES = 16 * 1024
QUICK = {
    "hello_retry_s": 0.02,
    "ack_delay_s": 0.005,
    "resend_after_s": 0.05,
    "probe_limit_s": 0.2,
    "keepalive_s": 0.1,
}


def a_session(link: LaneLink, role: LaneRole, **values: Any) -> LaneSession:
    fields = {
        "lane": "p1.memory",
        "max_payload_bytes": PAYLOAD_BYTES,
        "window_bytes": 8 * PAYLOAD_BYTES,
        **QUICK,
        **values,
    }
    return LaneSession(link, LaneSettings(role=role, **fields), seal=PlainSeal())


class Lane:
    """Two running sessions over one route, and how each of them ended."""

    def __init__(self, route: MemoryRoute, **values: Any) -> None:
        self.route = route
        self.a = a_session(route.a, LaneRole.INITIATOR, **values)
        self.b = a_session(route.b, LaneRole.ACCEPTOR, **values)
        self.tasks: list[asyncio.Task[None]] = []

    async def streams(self, label: str = "") -> tuple[LaneStream, LaneStream]:
        return self.a.open_stream(StreamKind.MEMORY, label), await self.b.accept()

    async def outcome(self, number: int) -> BaseException | None:
        (result,) = await asyncio.gather(self.tasks[number], return_exceptions=True)
        return result


@asynccontextmanager
async def running(route: MemoryRoute | None = None, **values: Any) -> AsyncIterator[Lane]:
    """A lane whose sessions run; both are closed or cancelled at the end, within 20 s in all."""
    lane = Lane(route or MemoryRoute(), **values)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:

        async def guard(session: LaneSession) -> None:
            await session.run()

        loop = asyncio.get_running_loop()
        lane.tasks = [loop.create_task(guard(session)) for session in (lane.a, lane.b)]
        try:
            yield lane
            closing = [group.create_task(session.close(flush_s=1.0)) for session in (lane.a, lane.b)]
            await asyncio.gather(*closing)
        finally:
            for task in lane.tasks:
                task.cancel()
            await asyncio.gather(*lane.tasks, return_exceptions=True)


async def read_all(stream: LaneStream) -> bytes:
    parts = []
    while part := await stream.read():
        parts.append(part)
    return b"".join(parts)


async def write_all(stream: LaneStream, data: bytes) -> None:
    await stream.write(data)
    stream.write_eof()


async def test_both_directions_at_once() -> None:
    """Bytes cross both ways on one stream, far more than the window, and end with EOF."""
    async with running() as lane:
        near, far = await lane.streams("both")
        there, back = os.urandom(2_000_000), os.urandom(1_000_000)
        assert (far.kind, far.label, far.stream_id) == (StreamKind.MEMORY, "both", near.stream_id)
        got = await asyncio.gather(read_all(far), read_all(near), write_all(near, there), write_all(far, back))
        assert (got[0] == there, got[1] == back) == (True, True)
        assert lane.a.stats().open_streams == 0
        assert lane.a.stats().data_sent_bytes == lane.b.stats().data_received_bytes == len(there)


async def test_payload_borders_are_kept() -> None:
    """One write of at most the limit is one read."""
    async with running() as lane:
        near, far = await lane.streams()
        sizes = [1, PAYLOAD_BYTES, 7, 2 * PAYLOAD_BYTES + 1]
        for size in sizes:
            await near.write(bytes(size))
        assert near.max_payload_bytes == PAYLOAD_BYTES
        reads = [len(await far.read()) for _ in range(6)]
        assert reads == [1, PAYLOAD_BYTES, 7, PAYLOAD_BYTES, PAYLOAD_BYTES, 1]


async def test_a_reader_that_stands_still_stops_the_writer() -> None:
    """What nobody reads stays within the window, in the sender, the relay and the receiver together."""
    async with running() as lane:
        near, far = await lane.streams()
        writing = asyncio.ensure_future(write_all(near, bytes(50 * PAYLOAD_BYTES)))
        await far.read()
        done, _ = await asyncio.wait([writing], timeout=0.1)
        assert not done
        assert lane.a.stats().unconsumed_out_bytes <= 8 * PAYLOAD_BYTES
        assert lane.a.stats().data_sent_bytes <= 8 * PAYLOAD_BYTES
        assert lane.route.highest_bytes <= 9 * PAYLOAD_BYTES
        assert len(await read_all(far)) == 49 * PAYLOAD_BYTES
        await writing


async def test_cuts_and_losses_do_not_change_a_byte() -> None:
    """A route that is cut again and again, loses what was queued, drops and duplicates frames: the bytes are exact."""
    count = 0

    def judge(_: bytes) -> Fate:
        nonlocal count
        count += 1
        return Fate.DROP if count % 17 == 0 else Fate.DUPLICATE if count % 13 == 0 else Fate.DELIVER

    route = MemoryRoute(queue_frames=4, judge=judge)
    async with running(route) as lane:
        near, far = await lane.streams()
        data = os.urandom(3_000_000)

        async def break_it() -> None:
            for number in range(6):
                await asyncio.sleep(0.03)
                route.cut(lose_queued=number % 2 == 0)
                await asyncio.sleep(0.01)
                route.mend()

        got, _, _ = await asyncio.gather(read_all(far), write_all(near, data), break_it())
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        assert lane.a.stats().reconnects >= 1
        assert lane.a.stats().resent_bytes > 0
        route.judge = lambda _: Fate.DELIVER


async def test_a_route_that_is_away_at_first() -> None:
    """Sessions may start before the route is there."""
    route = MemoryRoute()
    route.cut()
    async with running(route) as lane:
        stream = lane.a.open_stream(StreamKind.DISK, "vda")
        writing = asyncio.ensure_future(stream.write(b"patience"))
        await asyncio.sleep(0)
        route.mend()
        await lane.a.wait_ready()
        assert await (await lane.b.accept()).read() == b"patience"
        await writing


async def test_a_stalled_route_costs_nothing_but_time() -> None:
    """A route that delivers nothing for a while, without saying so, repeats nothing."""
    async with running() as lane:
        near, far = await lane.streams()
        lane.route.stall(stalled=True)
        writing = asyncio.ensure_future(write_all(near, bytes(20 * PAYLOAD_BYTES)))
        await asyncio.wait([writing], timeout=0.3)
        lane.route.stall(stalled=False)
        assert len(await read_all(far)) == 20 * PAYLOAD_BYTES
        assert lane.a.stats().resent_bytes == 0
        await writing


async def test_reset_reaches_reader_and_writer() -> None:
    """Who waits on a stream that the other end gives up learns why, and the lane goes on."""
    async with running() as lane:
        near, far = await lane.streams()
        writing = asyncio.ensure_future(write_all(near, bytes(50 * PAYLOAD_BYTES)))
        reading = asyncio.ensure_future(near.read())
        await far.read()
        far.reset("no space left on device")
        far.reset("twice is once")
        for task in (writing, reading):
            with pytest.raises(StreamResetError, match="by the other node agent: no space left"):
                await task
        with pytest.raises(StreamResetError, match="by this node agent"):
            await far.read()
        with pytest.raises(StreamResetError):
            near.write_eof()
        near, far = await lane.streams()
        await near.write(b"still alive")
        assert await far.read() == b"still alive"


async def test_two_streams_have_fair_turns() -> None:
    """A stream that fills the window does not starve another one."""
    async with running() as lane:
        near, far = await lane.streams()
        near2, far2 = await lane.streams()
        bulk = asyncio.ensure_future(write_all(near, bytes(200 * PAYLOAD_BYTES)))
        sink = asyncio.ensure_future(read_all(far))
        await near2.write(b"small")
        assert await far2.read() == b"small"
        assert not bulk.done()
        await asyncio.gather(bulk, sink)


async def test_close_flushes() -> None:
    """What was written before an orderly close arrives, and both runs return."""
    async with running() as lane:
        near, far = await lane.streams()
        await near.write(b"last words")
        closing = asyncio.ensure_future(lane.a.close(flush_s=5.0))
        assert await far.read_view() == b"last words"
        assert not closing.done()
        with pytest.raises(LaneClosedError, match="by the other"):
            await far.read()
        assert await closing is True
        assert await lane.outcome(0) is None
        assert await lane.a.close() is True
        with pytest.raises(LaneClosedError, match="by the other"):
            await lane.b.accept()
        assert await lane.b.close() is True
        assert await lane.outcome(1) is None
        for call in (near.read(), lane.a.accept(), lane.a.wait_ready()):
            with pytest.raises(LaneClosedError, match="by this"):
                await call
        near.reset("after the end: no effect")


async def test_close_is_bounded() -> None:
    """A reader that never comes back does not hold up the end."""
    async with running() as lane:
        near, _ = await lane.streams()
        await near.write(b"nobody reads this")
        assert await lane.a.close(flush_s=0.05) is False
        assert await lane.outcome(0) is None


async def test_silence_reaches_everybody_who_waits() -> None:
    """When the other end stays away, run, readers, writers and acceptors all get the same error."""
    async with running(silence_s=0.4) as lane:
        near, far = await lane.streams()
        await near.write(bytes(PAYLOAD_BYTES))
        lane.route.cut()
        waiting = [
            asyncio.ensure_future(near.read()),
            asyncio.ensure_future(write_all(near, bytes(50 * PAYLOAD_BYTES))),
            asyncio.ensure_future(lane.a.accept()),
        ]
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        outcome = await lane.outcome(0)
        assert isinstance(outcome, LaneSilentError)
        assert errors == [outcome] * 3
        with pytest.raises(LaneSilentError):
            lane.a.open_stream(StreamKind.DISK, "")
        with pytest.raises(LaneSilentError):
            await far.read()


async def test_cancelling_one_end_tells_the_other() -> None:
    """A node agent that stops does not leave the other one waiting for the silence deadline."""
    async with running() as lane:
        near, far = await lane.streams()
        lane.tasks[0].cancel()
        assert isinstance(await lane.outcome(0), asyncio.CancelledError)
        with pytest.raises(LaneCancelledError):
            await near.read()
        with pytest.raises(LaneAbortedError, match="its session was cancelled"):
            await far.read()
        assert isinstance(await lane.outcome(1), LaneAbortedError)


async def test_a_restarted_end_ends_the_lane() -> None:
    """An endpoint that comes back with empty state is told so, and so is the one that stayed."""
    async with running() as lane:
        near, _ = await lane.streams()
        lane.route.judge = lambda frame: Fate.DROP if decode_frame(frame).type is FrameType.ABORT else Fate.DELIVER
        lane.tasks[1].cancel()
        await lane.outcome(1)
        lane.route.judge = lambda _: Fate.DELIVER
        lane.route.b.closed = False
        fresh = a_session(lane.route.b, LaneRole.ACCEPTOR)
        with pytest.raises(LaneError):
            await fresh.run()
        outcome = await lane.outcome(0)
        assert isinstance(outcome, PeerRestartedError)
        with pytest.raises(PeerRestartedError):
            await near.read()


async def test_a_violation_is_told_to_the_other_end() -> None:
    """Bytes that are no frame end the lane at both ends, with the finding."""
    async with running() as lane:
        await lane.a.wait_ready()
        await lane.route.b.send(b"garbage")
        outcome = await lane.outcome(0)
        assert isinstance(outcome, LaneViolationError)
        other = await lane.outcome(1)
        assert isinstance(other, LaneAbortedError)
        assert "broke the lane protocol" in str(other)


class BrokenLink:
    """A link with a bug."""

    async def send(self, frame: bytes) -> None:
        raise PermissionError(f"no right to publish {len(frame)} bytes")

    async def receive(self) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def wait_up(self) -> None:
        """Always up."""

    async def close(self) -> None:
        """Nothing to release."""


async def test_an_error_of_the_route_that_waiting_does_not_mend() -> None:
    """Anything but LinkDown ends the lane and is named."""
    session = a_session(BrokenLink(), LaneRole.INITIATOR)
    with pytest.raises(LaneRouteError, match="no right to publish") as caught:
        await session.run()
    assert isinstance(caught.value.__cause__, PermissionError)


@pytest.mark.parametrize("turns", range(-4, 8))
@pytest.mark.parametrize("how", ["closed", "cancelled", "closed and cancelled"])
async def test_a_lane_ends_however_close_to_a_cut_that_is(turns: int, how: str) -> None:
    """A cut and the end, `turns` of the event loop later or earlier: no end is lost, and nothing goes on over the
    mended route.
    """
    async with running() as lane:
        await lane.a.wait_ready()

        async def cut() -> None:
            for _ in range(-turns):
                await asyncio.sleep(0)
            lane.route.cut()
            lane.route.mend()

        async def end() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            if how != "cancelled":
                await lane.a.close(flush_s=0)
            if how != "closed":
                lane.tasks[0].cancel()

        await asyncio.gather(cut(), end())
        ended, _ = await asyncio.wait({lane.tasks[0]}, timeout=10)
        assert ended
        lane.tasks[1].cancel()  # it would wait for the one that is gone
        await asyncio.wait({lane.tasks[1]}, timeout=10)
