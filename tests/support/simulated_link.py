"""A lane over a simulated link: two protocols, a bottleneck with an endless queue, two event loops with hiccups.

Time is virtual; nothing waits. The donor's application always has something to send, or pauses when it is told to.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.node_agent.lanes.core.events import DataReceived
from services.node_agent.lanes.core.protocol import LaneProtocol
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.testing import PlainSeal
from shared.page_stream.bodies import LaneRole, StreamKind

MBIT = 1e6 / 8


@dataclass(slots=True)
class Bottleneck:
    """What all lanes of a host send through."""

    bytes_per_s: float
    busy_s: float = 0.0
    free_at_s: float = 0.0

    def transmit(self, size_bytes: int, now_s: float) -> float:
        """Queue so many bytes; when the last of them has left."""
        took_s = size_bytes / self.bytes_per_s
        self.busy_s += took_s
        self.free_at_s = max(self.free_at_s, now_s) + took_s
        return self.free_at_s

    def queue_s(self, now_s: float) -> float:
        """How long what is queued keeps it busy."""
        return max(0.0, self.free_at_s - now_s)


@dataclass(slots=True)
class Reading:
    """What was seen at one instant."""

    at_s: float
    queue_s: float
    allowed_bytes: int


@dataclass(slots=True)
class Clock:
    """Virtual time and what is to happen, in order."""

    now_s: float = 1000.0
    todo: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: int = 0

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        """Do something later."""
        self.count += 1
        heapq.heappush(self.todo, (when_s, self.count, what))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end_s = self.now_s + seconds
        while self.todo and self.todo[0][0] <= end_s:
            self.now_s, _, what = heapq.heappop(self.todo)
            what()
        self.now_s = end_s


class SimulatedLane:
    """One lane that sends from `a` to `b`. `hiccup_s`: longest pause of either event loop, some of them so long.

    With a `reader`, `b`'s application passes what it makes of the payloads, `raw_bytes` of each, through that. Where
    they `vary`, some payloads become four times as much as that, in stretches of up to a hundred.
    """

    def __init__(
        self,
        clock: Clock,
        link: Bottleneck,
        *,
        one_way_s: float,
        payload_bytes: int = 64 * 1024,
        hiccup_s: float = 0.0,
        raw_bytes: int | None = None,
        reader: Bottleneck | None = None,
        vary: bool = False,
        seed: int = 1,
        **settings: Any,
    ) -> None:
        self.clock = clock
        self.link = link
        self.one_way_s = one_way_s
        self.payload = bytes(payload_bytes)
        self.hiccup_s = hiccup_s
        self.raw_bytes = payload_bytes if raw_bytes is None else raw_bytes
        self.reader = reader or Bottleneck(math.inf)
        self.vary = vary
        self._raws: deque[int] = deque()  # of payloads under way
        self._stretch = self._times = 1
        self.sends = True
        self.consumed_bytes = 0
        self.readings: list[Reading] = []
        self._random = random.Random(seed)  # noqa: S311  # the same in every run
        self._woken_s = {"a": 0.0, "b": 0.0}
        self._ticks_s = {"a": 0.0, "b": 0.0}
        fields = {"lane": "p1.memory", "window_bytes": 4 * 1024 * 1024, "max_payload_bytes": 266_240, **settings}
        self.a, self.b = (
            LaneProtocol(LaneSettings(role=role, **fields), seal=PlainSeal(), epoch=role.value, now_s=clock.now_s)
            for role in LaneRole
        )
        self.a.link_up(clock.now_s)
        self.b.link_up(clock.now_s)
        self._stream = self.a.open_stream(StreamKind.MEMORY, "precopy")
        self.go_on()

    def go_on(self) -> None:
        """Send what there is room for."""
        now_s = self.clock.now_s
        while self.sends and self.a.ready and self.a.has_room(len(self.payload)):
            self._raws.append(self.raw_bytes * self._next_times())
            self.a.send_data(self._stream, self.payload, now_s, raw_bytes=self._raws[-1])
            self.readings.append(Reading(now_s, self.link.queue_s(now_s), self.a.stats().allowed_out_bytes))
        for frame in self.a.frames_to_send(now_s):
            arrives_s = self._wake("b", self.link.transmit(len(frame), now_s) + self.one_way_s)
            self.clock.at(arrives_s, lambda frame=frame: self._at_b(frame))  # type: ignore[misc]
        for frame in self.b.frames_to_send(now_s):
            arrives_s = self._wake("a", now_s + self.one_way_s)
            self.clock.at(arrives_s, lambda frame=frame: self._at_a(frame))  # type: ignore[misc]
        for name, end in (("a", self.a), ("b", self.b)):
            due_s = end.next_tick_s()
            if not now_s < self._ticks_s[name] <= due_s:
                self._ticks_s[name] = due_s
                self.clock.at(due_s, lambda end=end: self._tick(end))  # type: ignore[misc]

    def since(self, at_s: float) -> list[Reading]:
        """What was seen from then on."""
        return [reading for reading in self.readings if reading.at_s >= at_s]

    def _next_times(self) -> int:
        self._stretch -= 1
        if self.vary and self._stretch == 0:
            self._stretch, self._times = self._random.randrange(1, 100), self._random.choice((1, 4))
        return self._times

    def _wake(self, name: str, due_s: float) -> float:
        """When an event loop comes to it: in order, and late when it has a hiccup."""
        if due_s > self._woken_s[name]:
            late_s = self.hiccup_s * self._random.random() ** 4
            self._woken_s[name] = due_s + late_s
        return self._woken_s[name]

    def _tick(self, end: LaneProtocol) -> None:
        end.tick(self.clock.now_s)
        self.go_on()

    def _at_a(self, frame: bytes) -> None:
        self.a.receive_frame(frame, self.clock.now_s)
        self.go_on()

    def _at_b(self, frame: bytes) -> None:
        for event in self.b.receive_frame(frame, self.clock.now_s):
            if isinstance(event, DataReceived):
                read_s = self.reader.transmit(self._raws.popleft(), self.clock.now_s)
                self.clock.at(read_s, lambda event=event: self._read(event))  # type: ignore[misc]
        self.go_on()

    def _read(self, event: DataReceived) -> None:
        self.consumed_bytes += len(event.payload)
        self.b.data_consumed(event.sequence)
        self.go_on()
