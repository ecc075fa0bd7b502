"""One TCP connection's framing, however the kernel cuts what comes."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.lanes.routes.pipe import WAKE_BYTES, Pipe

OPENING = b"who I am"


class WakingSocket:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.wake_at_bytes = 1

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT):
            self.wake_at_bytes = value


class StillTransport(asyncio.Transport):
    """Gives nothing by itself."""

    def __init__(self, sock: WakingSocket) -> None:
        super().__init__({"socket": sock})
        self.paused = False
        self.aborted = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class Receiving:
    """A pipe whose kernel is the test."""

    def __init__(self) -> None:
        self.socket = WakingSocket()
        self.transport = StillTransport(self.socket)
        self.pipe = Pipe(len(OPENING))
        self.pipe.connection_made(self.transport)
        self.frames: list[tuple[int, bytes]] = []
        self.lost: list[str] = []
        self.wake_ups = 0

    def serve(self) -> None:
        self.pipe.serve(lambda number, frame: self.frames.append((number, bytes(frame))), self.lost.append, silence_s=5)

    def feed(self, data: bytes) -> None:
        """Give as much at once as the pipe takes."""
        while data and not self.transport.paused and not self.transport.aborted:
            into = self.pipe.get_buffer(-1)
            taken = min(len(into), len(data))
            assert taken
            into[:taken] = data[:taken]
            self.pipe.buffer_updated(taken)
            self.wake_ups += 1
            data = data[taken:]

    def feed_as_a_kernel(self, data: bytes, segment_bytes: int) -> None:
        """In segments, waking the pipe only when what it wants is there."""
        waiting = bytearray()
        for start in range(0, len(data), segment_bytes):
            waiting += data[start : start + segment_bytes]
            while waiting and len(waiting) >= self.socket.wake_at_bytes:
                taken = min(len(waiting), len(self.pipe.get_buffer(-1)))
                self.feed(bytes(waiting[:taken]))
                del waiting[:taken]
        assert not waiting


def framed(number: int, frame: bytes) -> bytes:
    return struct.pack(">IQ", len(frame), number) + frame


@given(frames=st.lists(st.binary(max_size=300), max_size=20), cuts=st.lists(st.integers(1, 200), max_size=200))
def test_frames_come_whole_however_they_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    """Signs of life, which are empty, too."""

    async def receive() -> None:
        receiving = Receiving()
        receiving.feed(OPENING)
        assert await receiving.pipe.opening() == OPENING
        assert receiving.transport.paused
        receiving.serve()
        data = b"".join(framed(number, frame) for number, frame in enumerate(frames))
        for cut in cuts:
            receiving.feed(data[:cut])
            data = data[cut:]
        receiving.feed(data)
        assert receiving.frames == list(enumerate(frames))
        assert not receiving.lost

    asyncio.run(receive())


async def test_wakes_a_few_times_for_a_large_frame() -> None:
    """Not once per segment, and the last byte of a frame is never waited for behind what does not come."""
    receiving = Receiving()
    receiving.feed(OPENING)
    receiving.serve()
    receiving.wake_ups = 0
    frames = [bytes([number]) * size for number, size in enumerate((4 * WAKE_BYTES, 1, WAKE_BYTES + 1, 0, 70))]
    receiving.feed_as_a_kernel(b"".join(framed(*each) for each in enumerate(frames)), segment_bytes=1448)
    assert receiving.frames == list(enumerate(frames))
    assert receiving.wake_ups <= len(frames) + 4 + 1 + 2 + 1


async def test_a_connection_that_ends_before_it_has_said_who_it_is() -> None:
    """Is down for who waits, and makes no noise where nobody does."""
    receiving = Receiving()
    receiving.pipe.connection_lost(ConnectionResetError("reset"))
    with pytest.raises(LinkDown, match="reset"):
        await receiving.pipe.opening()


async def test_one_that_is_lost_before_it_serves_says_so_at_once() -> None:
    """Of a group, another one may still be waited for meanwhile; the socket is closed then."""
    receiving = Receiving()
    receiving.feed(OPENING)
    receiving.pipe.connection_lost(ConnectionResetError("reset"))
    receiving.transport.paused = False
    receiving.serve()
    assert len(receiving.lost) == 1
    assert receiving.socket.wake_at_bytes == 1


async def test_what_is_lost_is_said_once_and_to_who_sends() -> None:
    """An announced giant: the connection is hung up on, and nothing can be sent."""
    receiving = Receiving()
    receiving.feed(OPENING)
    receiving.serve()
    receiving.feed(struct.pack(">IQ", 2**31, 0))
    assert receiving.transport.aborted
    receiving.pipe.connection_lost(None)
    assert len(receiving.lost) == 1
    assert "announced" in receiving.lost[0]
    with pytest.raises(LinkDown, match="announced"):
        await receiving.pipe.drain()
