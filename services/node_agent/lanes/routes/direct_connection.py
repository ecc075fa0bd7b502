"""DirectConnection: one lane's frames over one or several TCP connections between two node agents.

Owns striping, order and the detection of a dead route; direct.py connects, pipe.py frames one connection. It
authenticates nobody: the lane's TLS inside does, and a stranger who got a connection could only end it.

    preface, once, from the end that connected:
        4 magic "VMPD" · u8 version (1) · 16 port id · u8 lane, by its place in Lane · u8 connection's number
        · u8 connections in all · 16 attachment: random, the same on all connections of one group
    answer, once: u8 1
    then, both ways:  u32 length · u64 number of the frame within the group · the frame;  length 0: a sign of life

Frames are numbered across the group. Each goes to the connection with the fewest unsent bytes, and the other end puts
them in order again. When one connection is lost the whole group is: the lane resumes, on another route or a new group.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.lanes.routes.pipe import Pipe
from shared.logs import get_logger
from shared.page_stream.frame import FrameBytes
from shared.tasks import Tasks
from shared.topology import Lane

log = get_logger(__name__)

MAGIC: Final = b"VMPD"
VERSION: Final = 1
MAX_CONNECTIONS: Final = 16
ACCEPTED: Final = b"\x01"
HELD_BYTES: Final = 64 * 1024 * 1024
"""More than any window: what may wait for its reader, or for an earlier frame, before the group is lost."""
SIGN_OF_LIFE_S: Final = 1.0
SILENCE_S: Final = 5.0

_PREFACE: Final = struct.Struct(">4sB16sBBB16s")
PREFACE_BYTES: Final = _PREFACE.size
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
    def decode(cls, data: bytes) -> Preface:
        """What `PREFACE_BYTES` say. Raises ValueError for anything else."""
        magic, version, port, lane, number, connections, attachment = _PREFACE.unpack(data)
        if magic != MAGIC or version != VERSION:
            raise ValueError("it does not speak as a node agent of this version")
        if not (lane < len(_LANES) and number < connections <= MAX_CONNECTIONS):
            raise ValueError(f"lane {lane}, connection {number} of {connections} is impossible")
        return cls(UUID(bytes=port), _LANES[lane], number, connections, attachment)


class DirectConnection:
    """A group of TCP connections that carries one lane's frames. Serves from its making until `close`, or its loss."""

    def __init__(self, pipes: list[Pipe]) -> None:
        self._pipes = pipes
        self._loop = asyncio.get_running_loop()
        self._next_out = 0
        self._next_in = 0
        self._early: dict[int, FrameBytes] = {}
        self._ready: deque[FrameBytes] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Event()
        self._heard_s = self._said_s = self._loop.time()
        self._tasks = Tasks("direct lane")
        self.lost = asyncio.Event()
        self.why_lost = ""
        for pipe in pipes:
            pipe.serve(self._receive_frame, self.lose, silence_s=SILENCE_S)
        self._tasks.spawn(self._watch(), name="watch")

    async def send(self, frame: bytes) -> None:
        """Hand one frame to TCP; waits while it takes none. Raises LinkDown."""
        if self.lost.is_set():
            raise LinkDown(self.why_lost)
        pipe = min(self._pipes, key=lambda each: each.unsent_bytes)
        number, self._next_out = self._next_out, self._next_out + 1
        pipe.send(number, frame)
        self._said_s = self._loop.time()
        await pipe.drain()

    async def receive(self) -> FrameBytes:
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
                pipe.abort()
        self._changed.set()

    async def close(self) -> None:
        """Hang up, with what was sent delivered where that is possible at once; idempotent."""
        if not self.lost.is_set():
            self.why_lost = "closed"
            self.lost.set()
            for pipe in self._pipes:
                pipe.close()
        self._changed.set()
        await self._tasks.close()

    def _receive_frame(self, number: int, frame: FrameBytes) -> None:
        if self.lost.is_set():
            return
        self._heard_s = self._loop.time()
        if not frame:
            return
        if number < self._next_in or number in self._early:
            self.lose(f"frame {number} came twice")
            return
        self._held_bytes += len(frame)
        if self._held_bytes > HELD_BYTES:
            self.lose(f"more than {HELD_BYTES} bytes wait; the other end breaks its window")
            return
        self._early[number] = frame
        while (following := self._early.pop(self._next_in, None)) is not None:
            self._ready.append(following)
            self._next_in += 1
        self._changed.set()

    async def _watch(self) -> None:
        while not self.lost.is_set():
            await asyncio.sleep(SIGN_OF_LIFE_S / 2)
            now_s = self._loop.time()
            if now_s - self._heard_s > SILENCE_S:
                self.lose(f"nothing was heard for {SILENCE_S:.0f} s")
            elif now_s - self._said_s >= SIGN_OF_LIFE_S:
                self._said_s = now_s
                for pipe in self._pipes:
                    pipe.send(0, b"")
