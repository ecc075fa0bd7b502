"""DirectConnection: one lane's frames over one or several TCP connections between two node agents.

Owns framing, striping and the noticing of a dead route; who connects to whom is direct.py's matter. It proves nobody:
the lane's TLS inside does, and whoever else came to hold a connection could only end it.

    preface, once, from the end that connected:
        4 magic "VMPD" · u8 version (1) · 16 port id · u8 lane, by its place in Lane · u8 connection's number
        · u8 connections in all · 16 attachment: random, the same on all connections of one group
    answer, once: u8 1
    then, both ways:  u32 length · u64 number of the frame within the group · the frame;  length 0: a sign of life

Frames are numbered across the group, dealt to whichever connection has least to send, and put in order again by the
other end. When one connection is lost the whole group is: the lane resumes, on another route or a new group.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from services.node_agent.lanes.link import LinkDown
from shared.page_stream.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES
from shared.tasks import Tasks
from shared.topology import Lane

log = structlog.stdlib.get_logger(__name__)

MAGIC: Final = b"VMPD"
VERSION: Final = 1
MAX_CONNECTIONS: Final = 16
ACCEPTED: Final = b"\x01"
READER_LIMIT_BYTES: Final = 2 * 1024 * 1024
SEND_BUFFER_BYTES: Final = 512 * 1024
HELD_BYTES: Final = 64 * 1024 * 1024
"""More than any window: what may wait for its reader, or for an earlier frame, before the group is lost."""
SIGN_OF_LIFE_S: Final = 1.0
SILENCE_S: Final = 5.0

_PREFACE: Final = struct.Struct(">4sB16sBBB16s")
_HEAD: Final = struct.Struct(">IQ")
_LANES: Final = list(Lane)


@dataclass(frozen=True, slots=True)
class Preface:
    """What the connecting end says first."""

    port_id: UUID
    lane: Lane
    number: int
    connections: int
    attachment: bytes

    def encode(self) -> bytes:
        """The bytes."""
        where = _LANES.index(self.lane)
        return _PREFACE.pack(MAGIC, VERSION, self.port_id.bytes, where, self.number, self.connections, self.attachment)

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> Preface:
        """Take one off a new connection. Raises ValueError for anything else, OSError, EOFError."""
        magic, version, port, lane, number, connections, attachment = _PREFACE.unpack(
            await reader.readexactly(_PREFACE.size)
        )
        if magic != MAGIC or version != VERSION:
            raise ValueError("it does not speak as a node agent of this version")
        if not (lane < len(_LANES) and number < connections <= MAX_CONNECTIONS):
            raise ValueError(f"lane {lane}, connection {number} of {connections} is impossible")
        return cls(UUID(bytes=port), _LANES[lane], number, connections, attachment)


@dataclass(frozen=True, slots=True)
class Pipe:
    """One TCP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def tune(self) -> None:
        """Notice a dead peer soon, and keep little in user space."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * SILENCE_S))
        self.writer.transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)


class DirectConnection:
    """A group of TCP connections that carries one lane's frames. Serves from its making until `close`, or its loss."""

    def __init__(self, pipes: list[Pipe]) -> None:
        self._pipes = pipes
        self._loop = asyncio.get_running_loop()
        self._next_out = 0
        self._next_in = 0
        self._early: dict[int, bytes] = {}
        self._ready: deque[bytes] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Event()
        self._heard_s = self._said_s = self._loop.time()
        self._tasks = Tasks("direct lane")
        self.lost = asyncio.Event()
        self.why_lost = ""
        for pipe in pipes:
            pipe.tune()
            self._tasks.spawn(self._read(pipe), name="read")
        self._tasks.spawn(self._watch(), name="watch")

    async def send(self, frame: bytes) -> None:
        """Hand one frame to TCP; waits while it takes none. Raises LinkDown."""
        if self.lost.is_set():
            raise LinkDown(self.why_lost)
        pipe = min(self._pipes, key=lambda each: each.writer.transport.get_write_buffer_size())
        number, self._next_out = self._next_out, self._next_out + 1
        pipe.writer.write(b"".join((_HEAD.pack(len(frame), number), frame)))
        self._said_s = self._loop.time()
        try:
            await pipe.writer.drain()
        except OSError as error:
            self.lose(f"sending: {error}")
            raise LinkDown(self.why_lost) from error

    async def receive(self) -> bytes:
        """The next frame. Raises LinkDown."""
        while not self._ready:
            if self.lost.is_set():
                raise LinkDown(self.why_lost)
            self._changed.clear()
            await self._changed.wait()
        frame = self._ready.popleft()
        self._held_bytes -= len(frame)
        return frame

    def lose(self, reason: str) -> None:
        """The route is gone; idempotent."""
        if not self.lost.is_set():
            self.why_lost = reason
            self.lost.set()
            for pipe in self._pipes:
                pipe.writer.transport.abort()
        self._changed.set()

    async def close(self) -> None:
        """Hang up, with what was sent delivered where that is possible at once; idempotent."""
        if not self.lost.is_set():
            self.why_lost = "closed"
            self.lost.set()
            for pipe in self._pipes:
                pipe.writer.close()
        self._changed.set()
        await self._tasks.close()

    async def _read(self, pipe: Pipe) -> None:
        try:
            while True:
                length, number = _HEAD.unpack(await pipe.reader.readexactly(_HEAD.size))
                if length > HEADER_BYTES + MAX_PAYLOAD_BYTES:
                    self.lose(f"a frame of {length} bytes was announced")
                    return
                frame = await pipe.reader.readexactly(length) if length else b""
                self._heard_s = self._loop.time()
                if frame and not self._take(number, frame):
                    return
        except (OSError, EOFError) as error:
            self.lose(f"the connection ended: {error}")

    def _take(self, number: int, frame: bytes) -> bool:
        if number < self._next_in or number in self._early:
            self.lose(f"frame {number} came twice")
            return False
        self._held_bytes += len(frame)
        if self._held_bytes > HELD_BYTES:
            self.lose(f"more than {HELD_BYTES} bytes wait; the other end breaks its window")
            return False
        self._early[number] = frame
        while (following := self._early.pop(self._next_in, None)) is not None:
            self._ready.append(following)
            self._next_in += 1
        self._changed.set()
        return True

    async def _watch(self) -> None:
        while not self.lost.is_set():
            await asyncio.sleep(SIGN_OF_LIFE_S / 2)
            now_s = self._loop.time()
            if now_s - self._heard_s > SILENCE_S:
                self.lose(f"nothing was heard for {SILENCE_S:.0f} s")
            elif now_s - self._said_s >= SIGN_OF_LIFE_S:
                self._said_s = now_s
                for pipe in self._pipes:
                    pipe.writer.write(_HEAD.pack(0, 0))
