"""Which delivery is handled next: in order per conversation, failures again with a delay. Pure: time is an input.

Rule 1. Deliveries of one conversation are handled in the order of their arrival, also while one of them fails: a
        transfer must not be opened after it was aborted because the opening had to be tried again.
Rule 2. A failing conversation does not delay another one.
Rule 3. Every delivery that is held here is unacknowledged on the bus, so the prefetch limits their number.
Rule 4. Of one sender only a few deliveries are held here while others are handled: what it has more is given up, or it
        would use up the prefetch of all. When nothing succeeds the trouble is ours, and everybody's deliveries wait.
Rule 5. A pressing delivery goes before others that are fresh, but not before those of its own conversation (rule 1).
        After a few that overtook, the oldest has its turn: nobody waits for ever.

RabbitMQ's requeueing breaks rule 1 (prefetched deliveries overtake) and cannot delay. So a failed delivery stays here
and is tried again here; RabbitMQ gets it back only when this process or its connection dies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shared.backoff import Backoff

MAX_ATTEMPTS = 10
"""After so many attempts a delivery is given up: with `RETRY` about 90 s after the first one."""

MAX_HELD = 8
"""Deliveries of one sender that may wait for a further attempt."""

MAX_OVERTAKING = 8
"""Pressing deliveries in a row that may overtake the oldest one."""

RETRY = Backoff(min_s=0.1, max_s=30.0, jitter=0.3)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Fresh(Generic[T]):
    conversation: Hashable
    owner: Hashable
    item: T
    pressing: bool


@dataclass(slots=True)
class _Held(Generic[T]):
    owner: Hashable
    since: int
    """How many deliveries had been handled when this conversation first failed."""
    items: deque[T] = field(default_factory=deque)
    failures: int = 0
    due_s: float = 0.0


class Conversations(Generic[T]):
    """Deliveries that wait to be handled, in order within each conversation. ``T`` is a delivery."""

    def __init__(self, *, backoff: Backoff = RETRY, max_attempts: int = MAX_ATTEMPTS, max_held: int = MAX_HELD) -> None:
        self._backoff = backoff
        self._max_attempts = max_attempts
        self._max_held = max_held
        self._fresh: deque[_Fresh[T]] = deque()
        self._pressing = 0
        """How many of the fresh ones are."""
        self._overtook = 0
        """How many of them have gone before the oldest one."""
        self._held: dict[Hashable, _Held[T]] = {}
        self._excess: list[T] = []
        self._current: tuple[Hashable, Hashable, T] | None = None
        self._handled = 0
        self._gave_up = False

    def __len__(self) -> int:
        waiting = len(self._fresh) + len(self._excess) + (self._current is not None)
        return waiting + sum(len(held.items) for held in self._held.values())

    def arrived(self, conversation: Hashable, item: T, *, sender: Hashable = None, pressing: bool = False) -> None:
        """Add a delivery that arrived. Rule 4 is kept per sender, if one is named."""
        self._fresh.append(_Fresh(conversation, sender, item, pressing))
        self._pressing += pressing

    def take(self, now_s: float) -> T | None:
        """The delivery to handle now, or None. Call `succeeded` or `failed` before the next call."""
        if self._current is not None:
            raise RuntimeError("the current delivery was neither succeeded nor failed yet")
        due = [(held.due_s, index, key) for index, (key, held) in enumerate(self._held.items()) if held.due_s <= now_s]
        if due:
            key = min(due)[2]
            item = self._held[key].items.popleft()
            self._current = (key, self._held[key].owner, item)
            return item
        while self._fresh:
            fresh = self._next_fresh()
            key, owner, item = fresh.conversation, fresh.owner, fresh.item
            if key not in self._held:
                self._current = (key, owner, item)
                return item
            if self._is_crowded(owner):
                self._excess.append(item)
            else:
                self._held[key].items.append(item)
        return None

    def _next_fresh(self) -> _Fresh[T]:
        index = self._index_of_pressing() if self._overtook < MAX_OVERTAKING else 0
        self._overtook = self._overtook + 1 if index else 0
        fresh = self._fresh[index]
        del self._fresh[index]
        self._pressing -= fresh.pressing
        return fresh

    def _index_of_pressing(self) -> int:
        """The first pressing one that is its conversation's oldest; else the oldest of all."""
        if not self._pressing:
            return 0
        before: set[Hashable] = set()
        for index, fresh in enumerate(self._fresh):
            if fresh.pressing and fresh.conversation not in before:
                return index
            before.add(fresh.conversation)
        return 0

    def take_excess(self) -> list[T]:
        """Deliveries that may not wait (rule 4): the caller gives them up."""
        excess, self._excess = self._excess, []
        return excess

    def next_due_s(self) -> float | None:
        """When the first of the failed deliveries is tried again, by `take`'s clock; None if there is none."""
        return min((held.due_s for held in self._held.values()), default=None)

    def succeeded(self) -> None:
        """The current delivery needs no other attempt: it was handled or given up."""
        key, _, _ = self._current_one()
        self._current = None
        self._handled += not self._gave_up
        self._gave_up = False
        held = self._held.get(key)
        if held is None:
            return
        held.failures, held.due_s = 0, 0.0
        if not held.items:
            del self._held[key]

    def failed(self, now_s: float, chance: float) -> float | None:
        """Try the current delivery again later. Returns after how many seconds; None if it had all its attempts, or may
        not wait (rule 4).

        ``chance`` is a random number from 0 to 1, for jitter. After None the caller gives the delivery up and
        then calls `succeeded`.
        """
        key, owner, item = self._current_one()
        held = self._held.get(key)
        failures = (held.failures if held else 0) + 1
        if failures >= self._max_attempts or (held is None and self._is_crowded(owner)):
            self._gave_up = True
            return None
        held = self._held.setdefault(key, _Held(owner, self._handled))
        delay_s = self._backoff.delay_s(failures, chance)
        held.items.appendleft(item)
        held.failures, held.due_s = failures, now_s + delay_s
        self._current = None
        return delay_s

    def _is_crowded(self, owner: Hashable) -> bool:
        if owner is None:
            return False
        mine = [held for held in self._held.values() if held.owner == owner]
        is_full = sum(len(held.items) for held in mine) >= self._max_held
        return is_full and any(held.since < self._handled for held in mine)

    def _current_one(self) -> tuple[Hashable, Hashable, T]:
        if self._current is None:
            raise RuntimeError("there is no current delivery")
        return self._current
