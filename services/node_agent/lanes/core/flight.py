"""Flight: how much of a lane's window may be taken now: about bandwidth x delay. Pure; time is an argument.

It owns the estimate only; it does not know the window's contents or who waits for room. A lane has two: one counts
payload bytes, one the raw bytes that the other application decodes from them. Whichever is full shows the bottleneck,
the link or that application; the other one keeps what it measured last (Rule 3).

The idea is that of BBR (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14(5), 2016): the
highest delivery rate and the shortest round trip of recent time, measured apart because no moment shows both.

Theory of operation ------------------- Bytes in flight beyond bandwidth x delay do not make a lane faster: they wait in
queues of the lane, of TCP and of the relay, and a switchover must wait for them. Every payload is a measurement: when
it is sent, a known number of bytes is in flight with it, and all of them are consumed when it is. Hence bytes / time is
the rate at which the other application consumed them, whatever the limit was: the link, a cap, or that application.

Rule 1  The delay is the shortest time that any payload took, in this slot of `SLOT_S` or the one before.
Rule 2  The flight is the highest rate of the last half second x (delay + slack). The slack is the queue that is
        wanted: `SLACK_S`, plus the average time that payloads took beyond the delay when they met no queue of their
        own. It covers the hiccups of two event loops. If they were taken for a queue, less would be allowed, which
        would make the lane slower but the hiccups no shorter, and so on downwards. A link so fast that the whole window
        passes within the slack has the whole window.
Rule 3  Only a payload after which there was no room left says what the rate can be; with less in flight, the
        sending application was slow. So a pause changes nothing.
Rule 4  No payload more than doubles what was in flight with it: a burst that a shaper lets through is not its rate.
        This is also how the flight grows, at the start and when a link becomes faster: once per delay.
Rule 5  Where there is always a queue, its time would become part of the shortest delay seen, slot after slot. So
        each slot begins with a drain: the flight stays below bandwidth x delay until some payloads have been put into
        the pipe when it was empty. Slots begin at multiples of `SLOT_S` of the clock that the lanes of a host share:
        they all drain at once, or each would take the others' queue for delay.
Rule 6  Never below `LEAST_BYTES`, nor, unless it drains, below two of the payloads that are really sent: one arrives
        while one is consumed.
Rule 7  A new route is a new delay and a new rate: everything begins again, and payloads sent before it measure nothing.
Rule 8  A reader that has stopped is not a slow link: it may wait for something that is still to be sent (contents that
        another stream of the lane brings). When the other end has all that was sent, and nothing was consumed for
        `STILL_S`, the whole window is allowed, until something is. Where not all has come to the other end, the link
        may be away: what would be sent into it now would be sent again when it is back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SLACK_S: Final = 0.03
SLACK_LIMIT_S: Final = 0.1
"""However long the hiccups. Of several lanes each sees what the others leave in the pipe as hiccups."""
SLOT_S: Final = 5.0
RATE_SLOT_S: Final = 0.25
"""A rate counts in the slot in which it was seen and in the next one: for half a second at most."""
STILL_S: Final = 1.0
START_BYTES: Final = 512 * 1024
LEAST_BYTES: Final = 64 * 1024
_GROWTH: Final = 2.0
_DRAINED: Final = 0.75  # part of bandwidth x delay; the rest is the price of measuring the delay
_DRAIN_PAYLOADS: Final = 4  # too few samples to average otherwise
_DRAIN_LIMIT_S: Final = 0.5


class BestOfTwoSlots:
    """The best value of the present slot of time and the one before. Slots begin at multiples of `slot_s`."""

    def __init__(self, slot_s: float, better: Callable[[float, float], float]) -> None:
        self._slot_s = slot_s
        self._better = better
        self._slot = 0
        self._now: float | None = None
        self._before: float | None = None

    def add(self, value: float, now_s: float) -> float:
        """Add a value; returns the best of both slots, which is this one after a long pause."""
        slot = int(now_s // self._slot_s)
        if slot != self._slot:
            self._before = self._now if slot == self._slot + 1 else None
            self._slot, self._now = slot, None
        self._now = value if self._now is None else self._better(self._now, value)
        return self._now if self._before is None else self._better(self._now, self._before)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A payload in flight: when it was sent, and how many bytes were in flight with it."""

    at_s: float
    flight_bytes: int
    full: bool  # the flight had no room for another
    alone: bool  # the flight had drained: it met no queue


class Flight:
    """One direction of one lane. `window_bytes` is the upper bound, 0 until it is known.

    One that does not `follow` always allows the window.
    """

    def __init__(self, *, follow: bool = True) -> None:
        self._follow = follow
        self._window_bytes = 0
        self._allowed_bytes = 0
        self._in_flight: deque[_Sent] = deque()
        self._begin_again()

    def _begin_again(self, now_s: float = 0.0) -> None:
        self._of_another_route = len(self._in_flight)
        self._delays = BestOfTwoSlots(SLOT_S, min)
        self._targets = BestOfTwoSlots(RATE_SLOT_S, max)
        self._largest = BestOfTwoSlots(RATE_SLOT_S, max)
        self._delay_s: float | None = None
        self._hiccup_s = 0.0
        self._target_bytes = float(START_BYTES)
        self._largest_bytes = 0
        self._waits_since_s = now_s  # for anything in flight to be consumed
        self._stands_still = False
        self._slot: int | None = None
        self._drains = False
        self._drained = 0  # payloads sent after it had drained, and consumed
        self._drain_began_s = 0.0
        self._empty_after_s = 0.0  # seconds from the begin of a drain until the queue is empty

    @property
    def window_bytes(self) -> int:
        """The upper bound."""
        return self._window_bytes

    @window_bytes.setter
    def window_bytes(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._allow()

    @property
    def allowed_bytes(self) -> int:
        """How many bytes may be in flight; the payload that reaches the limit may exceed it."""
        return self._allowed_bytes

    def has_room(self, unconsumed_bytes: int) -> bool:
        """Whether another payload may be sent while `unconsumed_bytes` are in flight; always if none are."""
        return unconsumed_bytes < self._allowed_bytes

    def sent(self, size_bytes: int, *, unconsumed_bytes: int, now_s: float) -> None:
        """A payload of `size_bytes` was sent; with it `unconsumed_bytes` are in flight."""
        if not self._follow:
            return
        if not self._in_flight:
            self._waits_since_s = now_s
        self._turn_slot(now_s)
        self._largest_bytes = int(self._largest.add(size_bytes, now_s))
        full = unconsumed_bytes >= min(self._allowed_bytes, self._window_bytes - size_bytes)
        alone = self._drains and now_s - self._drain_began_s >= self._empty_after_s
        self._in_flight.append(_Sent(now_s, unconsumed_bytes, full=full and not self._drains, alone=alone))

    def consumed(self, payloads: int, now_s: float) -> None:
        """The other application consumed the next `payloads` payloads, in the order in which they were sent."""
        if not payloads or not self._follow:
            return
        self._waits_since_s, self._stands_still = now_s, False
        # One report is one measurement: of the payloads in it, the newest one waited least for the ack.
        for _ in range(payloads):
            newest = self._in_flight.popleft()
        of_this_route = payloads > self._of_another_route
        self._of_another_route = max(0, self._of_another_route - payloads)
        if of_this_route:
            self._measure(newest, now_s)
        self._turn_slot(now_s)
        self._allow()

    def restart(self, now_s: float) -> None:
        """The route is up, for the first time or again, or is another one."""
        self._begin_again(now_s)
        self._allow()

    def next_tick_s(self, *, all_arrived: bool) -> float | None:
        """When the reader will count as stopped, if nothing is consumed before; None if it will not.

        `all_arrived`: the other end has received all that was sent.
        """
        if not self._in_flight or self._stands_still or not all_arrived:
            return None
        return self._waits_since_s + max(STILL_S, 2 * (self._delay_s or 0.0))

    def tick(self, now_s: float, *, all_arrived: bool) -> None:
        """Check whether the reader has stopped (Rule 8)."""
        due_s = self.next_tick_s(all_arrived=all_arrived)
        if due_s is not None and now_s >= due_s:
            self._stands_still = True
            self._allow()

    def _measure(self, sent: _Sent, now_s: float) -> None:
        took_s = max(0.0, now_s - sent.at_s)
        self._delay_s = self._delays.add(took_s, now_s)
        if sent.alone:
            # The mean of this drain; the one before is forgotten with the first payload.
            self._drained += 1
            self._hiccup_s += (took_s - self._delay_s - self._hiccup_s) / self._drained
        if sent.full:
            growth = min(_GROWTH, (self._delay_s + self._slack_s) / took_s) if took_s else _GROWTH
            self._target_bytes = self._targets.add(sent.flight_bytes * growth, now_s)

    @property
    def _slack_s(self) -> float:
        return min(SLACK_LIMIT_S, SLACK_S + self._hiccup_s)

    def _turn_slot(self, now_s: float) -> None:
        """Begin to drain, or end it."""
        slot, before = int(now_s // SLOT_S), self._slot
        self._slot = slot
        # Where the window is the limit, the queue is never longer than the slack: no need to drain.
        if before not in (None, slot) and self._delay_s is not None and self._target_bytes < self._window_bytes:
            self._drains = True
            self._drained = 0
            self._drain_began_s = now_s
            self._empty_after_s = self._delay_s + self._slack_s
        elif self._drains and (self._drained >= _DRAIN_PAYLOADS or now_s - self._drain_began_s >= _DRAIN_LIMIT_S):
            self._drains = False
        else:
            return
        self._allow()

    def _allow(self) -> None:
        if not self._follow or self._stands_still:
            self._allowed_bytes = self._window_bytes
            return
        allowed, least = self._target_bytes, max(LEAST_BYTES, 2 * self._largest_bytes)
        if self._drains and self._delay_s is not None:
            allowed *= _DRAINED * self._delay_s / (self._delay_s + self._slack_s)
            least = LEAST_BYTES
        self._allowed_bytes = min(self._window_bytes, max(least, int(allowed)))
