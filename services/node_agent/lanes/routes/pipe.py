"""Pipe: one TCP connection of a direct lane, cut into frames. Knows their framing, not their order or meaning.

The kernel copies received bytes directly into the frame: only the bytes that are needed next, never more. So it can be
told their number (SO_RCVLOWAT, socket(7)) and wakes this process a few times per frame, not once per segment: at
100 Mbit/s that is 100 to 200 wake-ups a second instead of thousands.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from services.node_agent.lanes.routes.link import LinkDown
from shared.page_stream.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, FrameBytes

SEND_BUFFER_BYTES: Final = 512 * 1024
WAKE_BYTES: Final = 64 * 1024
"""At most this many bytes wait unread in the kernel: 5 ms at 100 Mbit/s."""

_HEAD: Final = struct.Struct(">IQ")
_FRAME_LIMIT_BYTES: Final = HEADER_BYTES + MAX_PAYLOAD_BYTES


class Pipe(asyncio.BufferedProtocol):
    """A protocol for `create_server` and `create_connection`. First what each end says it is, of known size; from
    `serve` on frames: u32 length · u64 number of the frame · the frame.
    """

    def __init__(self, opening_bytes: int, made: Callable[[Pipe], None] | None = None) -> None:
        """The other end begins with so many bytes. `made` hears when there is a connection."""
        self._made = made
        self._buffer = bytearray(opening_bytes)
        self._have = 0
        self._opening: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._on_frame: Callable[[int, FrameBytes], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._number: int | None = None  # of the frame whose bytes are wanted; None: a head is
        self._woken_at_bytes = 1
        self._writable = asyncio.Event()
        self._writable.set()
        self._why_lost = ""

    # Opening --------------------------------------------------------------------------------------------------------

    async def opening(self) -> bytes:
        """What the other end says first. Raises LinkDown when the connection ends before."""
        return await self._opening

    def write(self, data: bytes) -> None:
        """Send; see `drain`."""
        self._transport.write(data)

    # Frames ---------------------------------------------------------------------------------------------------------

    def serve(
        self, on_frame: Callable[[int, FrameBytes], None], lost: Callable[[str], None], *, silence_s: float
    ) -> None:
        """Give number and bytes of every frame, none for a sign of life, to `on_frame`; say to `lost`, once, why there
        will be no more. What is sent and not acknowledged for `silence_s` ends the connection.
        """
        if self._why_lost:
            lost(self._why_lost)
            return
        self._on_frame, self._lost = on_frame, lost
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * silence_s))
        self._transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        self._want_head()
        self._transport.resume_reading()

    def send(self, number: int, frame: bytes) -> None:
        """One frame; see `drain`."""
        self._transport.write(b"".join((_HEAD.pack(len(frame), number), frame)))

    @property
    def unsent_bytes(self) -> int:
        """What TCP has not taken yet."""
        return self._transport.get_write_buffer_size()

    async def drain(self) -> None:
        """Return when TCP has taken the most of it. Raises LinkDown."""
        await self._writable.wait()
        if self._why_lost:
            raise LinkDown(self._why_lost)

    def close(self) -> None:
        """Hang up when what was sent is out."""
        self._transport.close()

    def abort(self) -> None:
        """Hang up."""
        self._transport.abort()

    # asyncio's side -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._socket = cast("socket.socket", transport.get_extra_info("socket"))
        if self._made is not None:
            self._made(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        """What is still wanted."""
        return memoryview(self._buffer)[self._have :]

    def buffer_updated(self, nbytes: int) -> None:
        """So much of it came."""
        self._have += nbytes
        if self._have < len(self._buffer):
            self._set_wake()
        elif self._on_frame is None:
            self._transport.pause_reading()
            if not self._opening.done():
                self._opening.set_result(bytes(self._buffer))
        else:
            self._handle_wanted(self._on_frame)

    def pause_writing(self) -> None:
        """More waits than SEND_BUFFER_BYTES."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Less waits again."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended, by whichever end."""
        if self._why_lost:
            return
        self._why_lost = f"the connection ended: {exc or 'the other end has hung up'}"
        self._writable.set()
        if not self._opening.done():
            self._opening.set_exception(LinkDown(self._why_lost))
            self._opening.exception()  # mark it as retrieved: no task may be waiting any more
        if self._lost is not None:
            self._lost(self._why_lost)

    def _handle_wanted(self, on_frame: Callable[[int, FrameBytes], None]) -> None:
        if self._number is not None:
            number, frame = self._number, self._buffer
            self._want_head()
            on_frame(number, frame)
            return
        length, number = _HEAD.unpack(self._buffer)
        if length > _FRAME_LIMIT_BYTES:
            self._transport.abort()
            self.connection_lost(ValueError(f"a frame of {length} bytes was announced"))
        elif length:
            self._number = number
            self._want(length)
        else:
            self._want_head()
            on_frame(number, b"")

    def _want_head(self) -> None:
        self._number = None
        self._want(_HEAD.size)

    def _want(self, size_bytes: int) -> None:
        self._buffer = bytearray(size_bytes)
        self._have = 0
        self._set_wake()

    def _set_wake(self) -> None:
        wake_at_bytes = min(WAKE_BYTES, len(self._buffer) - self._have)
        if wake_at_bytes != self._woken_at_bytes:
            self._woken_at_bytes = wake_at_bytes
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake_at_bytes)
