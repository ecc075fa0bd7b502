"""An in-memory pair of LaneLinks with faults on demand, for tests and benchmarks. Ships with the product, like every
fake of ours.

A `MemoryRoute` behaves as a relay with one queue per direction: frames survive a cut unless it says otherwise, order
is kept, `send` waits while the queue is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from services.node_agent.lanes.core.seal import SealError
from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.metrics import Route
from shared.page_stream.frame import FrameType


class Fate(Enum):
    """What a route does with a frame."""

    DELIVER = auto()
    DROP = auto()
    DUPLICATE = auto()


def _deliver(_: bytes) -> Fate:
    return Fate.DELIVER


class _Direction:
    """One queue of the relay."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.queued_bytes = 0
        self.highest_bytes = 0
        self.changed = asyncio.Event()

    def put(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.queued_bytes += len(frame)
        self.highest_bytes = max(self.highest_bytes, self.queued_bytes)
        self.changed.set()

    def pop(self) -> bytes:
        frame = self.frames.popleft()
        self.queued_bytes -= len(frame)
        self.changed.set()
        return frame

    def clear(self) -> None:
        self.frames.clear()
        self.queued_bytes = 0

    async def wait(self) -> None:
        self.changed.clear()
        await self.changed.wait()


class MemoryRoute:
    """Two links, `a` and `b`. `judge` decides the fate of every frame sent; it may be replaced at any time."""

    def __init__(self, *, queue_frames: int = 64, judge: Callable[[bytes], Fate] = _deliver) -> None:
        self.judge = judge
        self.queue_frames = queue_frames
        self.is_up = True
        self.is_stalled = False
        self.cuts = 0
        self._up = asyncio.Event()
        self._up.set()
        self._to_a = _Direction()
        self._to_b = _Direction()
        self.a = MemoryLink(self, outgoing=self._to_b, incoming=self._to_a)
        self.b = MemoryLink(self, outgoing=self._to_a, incoming=self._to_b)

    @property
    def highest_bytes(self) -> int:
        """Most bytes that either queue ever held."""
        return max(self._to_a.highest_bytes, self._to_b.highest_bytes)

    def cut(self, *, lose_queued: bool = False) -> None:
        """The route goes away for both ends, as RabbitMQ does when it stops."""
        self.is_up = False
        self.cuts += 1
        self._up.clear()
        for direction in (self._to_a, self._to_b):
            if lose_queued:
                direction.clear()
            direction.changed.set()

    def mend(self) -> None:
        """The route is back."""
        self.is_up = True
        self._up.set()

    def stall(self, *, stalled: bool) -> None:
        """Deliver nothing from now on, or deliver again; neither end is told."""
        self.is_stalled = stalled
        self._to_a.changed.set()
        self._to_b.changed.set()

    async def wait_up(self) -> None:
        """Return while the route is up."""
        await self._up.wait()


class MemoryLink:
    """One end of a MemoryRoute; a LaneLink, and a port's, for which it stands for the relay."""

    route: Route | None = Route.RELAY

    def __init__(self, route: MemoryRoute, *, outgoing: _Direction, incoming: _Direction) -> None:
        self._route = route
        self._outgoing = outgoing
        self._incoming = incoming
        self._cuts = 0
        self.closed = False

    async def send(self, frame: bytes) -> None:
        """Queue a frame for the other end, as the route's judge decides."""
        self._check_up()
        while len(self._outgoing.frames) >= self._route.queue_frames:
            await self._outgoing.wait()
            self._check_up()
        fate = self._route.judge(frame)
        if fate is not Fate.DROP:
            self._outgoing.put(frame)
        if fate is Fate.DUPLICATE:
            self._outgoing.put(frame)

    async def receive(self) -> bytes:
        """The next frame of the other end."""
        self._check_up()
        while self._route.is_stalled or not self._incoming.frames:
            await self._incoming.wait()
            self._check_up()
        return self._incoming.pop()

    async def wait_up(self) -> None:
        """Return once the route is up; the connection is then a new one."""
        await self._route.wait_up()
        self._cuts = self._route.cuts

    async def close(self) -> None:
        """No more of this end."""
        self.closed = True

    def _check_up(self) -> None:
        if self.closed or not self._route.is_up or self._cuts != self._route.cuts:
            raise LinkDown("the route was cut")


class PlainSeal:
    """A LaneSeal that hides nothing, so that a test can look into frames. No service makes one."""

    established = True

    def begin(self) -> bytes:
        """Nothing to say."""
        return b""

    def receive_handshake(self, data: bytes | memoryview) -> bytes:
        """Nobody else may speak either."""
        raise SealError(f"{len(data)} bytes of a handshake where there is none")

    def sealed_bytes(self, body_bytes: int) -> int:
        """As it is."""
        return body_bytes

    def seal(self, frame_type: FrameType, stream_id: int, body: bytes | memoryview) -> bytes | memoryview:  # noqa: ARG002  # the contract's names
        """As it is."""
        return body

    def open(self, frame_type: FrameType, stream_id: int, sealed: bytes | memoryview) -> bytes | memoryview:  # noqa: ARG002  # the contract's names
        """As it is."""
        return sealed
