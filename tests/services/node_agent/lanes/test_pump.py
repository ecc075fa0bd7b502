from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from services.node_agent.lanes.core.errors import LaneAbortedError, StreamResetError
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.pump import READER_LIMIT_BYTES, StreamPump
from services.node_agent.lanes.run_ahead import AHEAD_BYTES
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.testing import MemoryRoute, PlainSeal
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, ChunkEncoder, CodecError, CodecStats
from services.node_agent.page_codec.raw_codec import RawDecoder, RawEncoder
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder
from shared.page_stream.bodies import LaneRole, StreamKind

WINDOW_BYTES = 1024 * 1024
BROKEN = r"Broken pipe|reset by peer|Connection lost"


class Hoarder:
    """A codec that sends nothing until it is flushed."""

    def __init__(self) -> None:
        self.held = b""

    @property
    def holds_back(self) -> bool:
        return bool(self.held)

    def encode(self, chunk: bytes) -> list[bytes]:
        self.held += chunk
        return []

    def flush(self) -> list[bytes]:
        held, self.held = self.held, b""
        return [held] if held else []

    def stats(self) -> CodecStats:
        return CodecStats()


class Leader(RawEncoder):
    """A codec that may run ahead until it is told otherwise."""

    lead = 1.0


@dataclass
class Setup:
    """A lane with one stream, pumped at both ends into socket pairs; `near` and `far` are the outer ends."""

    near: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    far: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    pumps: list[StreamPump]
    tasks: list[asyncio.Task[None]]
    streams: tuple[LaneStream, LaneStream]
    sessions: tuple[LaneSession, LaneSession]
    running: list[asyncio.Task[None]]


@asynccontextmanager
async def pumping(make_encoder: Callable[[], ChunkEncoder] = ZstdEncoder, *, raw: bool = False) -> AsyncIterator[Setup]:
    """Everything runs; at the end everything is cancelled and closed, within 20 s in all."""
    route = MemoryRoute()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        donor, recipient = (
            LaneSession(link, LaneSettings(lane="p1.memory", role=role, window_bytes=WINDOW_BYTES), seal=PlainSeal())
            for link, role in ((route.a, LaneRole.INITIATOR), (route.b, LaneRole.ACCEPTOR))
        )
        running = [loop.create_task(session.run()) for session in (donor, recipient)]
        streams = donor.open_stream(StreamKind.MEMORY, ""), await recipient.accept()
        pumps, outer = [], []
        for stream in streams:
            inside, outside = socket.socketpair()
            reader, writer = await asyncio.open_unix_connection(sock=inside, limit=READER_LIMIT_BYTES)
            decoder = RawDecoder() if raw else ZstdDecoder()
            pumps.append(StreamPump(reader, writer, stream, encoder=make_encoder(), decoder=decoder))
            outer.append(await asyncio.open_unix_connection(sock=outside))
        tasks = [loop.create_task(pump.run()) for pump in pumps]
        try:
            yield Setup(outer[0], outer[1], pumps, tasks, streams, (donor, recipient), running)
        finally:
            for task in tasks + running:
                task.cancel()
            await asyncio.gather(*tasks, *running, return_exceptions=True)
            for _, writer in outer:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    writer.write_eof()


async def test_both_directions_and_half_close() -> None:
    """Bytes are exact in both directions, EOF ends one of them only, and both pumps end when both have ended."""
    async with pumping() as setup:
        there, back = os.urandom(3_000_000) + bytes(3_000_000), bytes(500_000)
        got, _ = await asyncio.gather(setup.far[0].read(), send(setup.near[1], there))
        assert got == there
        assert not any(task.done() for task in setup.tasks)
        got, _ = await asyncio.gather(setup.near[0].read(), send(setup.far[1], back))
        assert got == back
        await asyncio.gather(*setup.tasks)
        sent, received = setup.pumps[0].stats().sent, setup.pumps[1].stats().received
        assert sent == received
        assert sent.raw_bytes == len(there)
        assert sent.wire_bytes < len(there) * 0.6
        assert setup.sessions[0].stats().raw_sent_bytes == len(there)


async def test_a_socket_that_is_not_read_stops_the_other_one() -> None:
    """Backpressure goes through: what is under way stays within window and kernel buffers, and nothing is lost."""
    async with pumping(RawEncoder, raw=True) as setup:
        data = os.urandom(16 * WINDOW_BYTES)
        setup.far[0]._transport.pause_reading()  # type: ignore[attr-defined]  # no public way to a reader's transport
        sending = asyncio.ensure_future(send(setup.near[1], data))
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done
        donor, recipient = (session.stats() for session in setup.sessions)
        assert donor.unconsumed_out_bytes <= WINDOW_BYTES
        assert recipient.unconsumed_in_bytes <= WINDOW_BYTES
        assert donor.data_sent_bytes < 3 * WINDOW_BYTES
        setup.far[0]._transport.resume_reading()  # type: ignore[attr-defined]
        assert await setup.far[0].read() == data
        await sending


@pytest.mark.parametrize("lead", [1.0, 0.25])
async def test_what_may_run_ahead_waits_before_the_lane_within_bounds(lead: float) -> None:
    """It counts as held back; once nothing may run ahead, the socket is read only when all of it has gone."""
    most = round(lead * AHEAD_BYTES)
    async with pumping(Leader, raw=True) as setup:
        data = os.urandom(2 * AHEAD_BYTES)
        setup.far[0]._transport.pause_reading()  # type: ignore[attr-defined]  # no public way to a reader's transport
        sending = asyncio.ensure_future(send(setup.near[1], data))
        pump = setup.pumps[0]
        pump._encoder.lead = lead  # type: ignore[attr-defined]  # a Leader's
        while pump.held_bytes < most:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0)
        await asyncio.wait([sending], timeout=0.1)
        assert most <= pump.held_bytes <= most + MAX_CHUNK_BYTES
        assert pump.held_raw_bytes == pytest.approx(pump.held_bytes, rel=0.01)
        pump._encoder.lead = 0.0  # type: ignore[attr-defined]  # a Leader's
        setup.far[0]._transport.resume_reading()  # type: ignore[attr-defined]
        assert await setup.far[0].read() == data
        assert pump.held_bytes == 0
        await sending


async def test_a_codec_that_holds_back_is_flushed_when_the_socket_pauses() -> None:
    """A buffering codec delays a lonely request by milliseconds only."""
    async with pumping(Hoarder, raw=True) as setup:
        setup.near[1].write(b"ping")
        assert await setup.far[0].readexactly(4) == b"ping"
        setup.near[1].write(b"last")
        setup.near[1].write_eof()
        assert await setup.far[0].read() == b"last"


async def test_a_broken_socket_resets_the_stream() -> None:
    """When the local program dies, the other end's socket is closed, and both pumps say why."""
    async with pumping() as setup:
        setup.near[1].write(b"x")
        assert await setup.far[0].readexactly(1) == b"x"
        setup.far[1].transport.abort()
        writing = asyncio.ensure_future(send(setup.near[1], os.urandom(16 * WINDOW_BYTES)))
        with pytest.raises(OSError, match=BROKEN):
            await setup.tasks[1]
        with pytest.raises(StreamResetError, match=r"by the other node agent: its socket broke: "):
            await setup.tasks[0]
        assert await setup.near[0].read() == b""
        with pytest.raises(OSError, match=BROKEN):
            await writing


async def test_a_payload_that_cannot_be_decoded_resets_the_stream() -> None:
    """Damage is a typed error at the end that sees it, and the reason travels to the other one."""
    async with pumping(RawEncoder) as setup:
        setup.near[1].write(b"\x07 is no method")
        with pytest.raises(CodecError, match="method 7"):
            await setup.tasks[1]
        with pytest.raises(StreamResetError, match="method 7"):
            await setup.tasks[0]


async def test_cancelling_a_pump_resets_the_stream() -> None:
    """A cancelled pump closes its socket at once and tells the other end."""
    async with pumping() as setup:
        setup.near[1].write(b"x")
        assert await setup.far[0].readexactly(1) == b"x"
        setup.tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await setup.tasks[0]
        assert await setup.near[0].read() == b""
        with pytest.raises(StreamResetError, match="pump cancelled"):
            await setup.tasks[1]
        assert await setup.far[0].read() == b""


async def test_the_end_of_the_lane_ends_the_pumps() -> None:
    """A pump raises the error that ended its lane."""
    async with pumping() as setup:
        setup.near[1].write(b"x")
        assert await setup.far[0].readexactly(1) == b"x"
        setup.running[0].cancel()
        with pytest.raises(LaneAbortedError):
            await setup.tasks[1]
        assert await setup.far[0].read() == b""


class _Holder(RawEncoder):
    """Tells of bytes that wait, as many as it may hold."""

    held_bytes = 0

    def hold_at_most(self, limit_bytes: int) -> None:
        """All at once."""
        self.held_bytes = limit_bytes


async def test_what_an_encoder_lets_wait_is_told() -> None:
    """The ladder asks the pump; an encoder that holds nothing is not bothered."""
    async with pumping(_Holder, raw=True) as setup:
        await send(setup.near[1], b"x")
        assert await setup.far[0].read() == b"x"
        assert setup.pumps[0].held_bytes == 0
        setup.pumps[0].hold_at_most(1000)
        assert setup.pumps[0].held_bytes == 1000
    async with pumping() as setup:
        await send(setup.near[1], b"x")
        assert await setup.far[0].read() == b"x"
        setup.pumps[0].hold_at_most(1000)
        assert setup.pumps[0].held_bytes == 0


async def test_a_socket_is_not_read_while_reading_is_stopped() -> None:
    """What was read goes out, what comes later waits in the socket, and nothing is lost."""
    async with pumping() as setup:
        _, near = setup.near
        far, _ = setup.far
        near.write(b"first")
        assert await far.readexactly(5) == b"first"
        setup.pumps[0].stop_reading(stopped=True)
        near.write(b"second")  # the read that waits already takes one chunk
        assert await far.readexactly(6) == b"second"
        near.write(b"third")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(far.readexactly(5), 0.2)
        setup.pumps[0].stop_reading(stopped=False)
        assert await far.readexactly(5) == b"third"
