"""Which delivery is handled next: in order per conversation, failures again with a delay. Pure: time is an input.

Rule 1. Deliveries of one conversation are handled in the order of their arrival, also while one of them fails: a
        transfer must not be opened after it was aborted because the opening had to be tried again.
Rule 2. A failing conversation does not delay another one.
Rule 3. Every delivery that is held here is unacknowledged on the bus, so the prefetch limits their number.

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

RETRY = Backoff(min_s=0.1, max_s=30.0, jitter=0.3)

T = TypeVar("T")


@dataclass(slots=True)
class _Held(Generic[T]):
    items: deque[T] = field(default_factory=deque)
    failures: int = 0
    due_s: float = 0.0


class Conversations(Generic[T]):
    """Deliveries that wait to be handled, in order within each conversation. ``T`` is a delivery."""

    def __init__(self, *, backoff: Backoff = RETRY, max_attempts: int = MAX_ATTEMPTS) -> None:
        self._backoff = backoff
        self._max_attempts = max_attempts
        self._fresh: deque[tuple[Hashable, T]] = deque()
        self._held: dict[Hashable, _Held[T]] = {}
        self._current: tuple[Hashable, T] | None = None

    def __len__(self) -> int:
        return len(self._fresh) + sum(len(held.items) for held in self._held.values()) + (self._current is not None)

    def arrived(self, conversation: Hashable, item: T) -> None:
        """Add a delivery that arrived."""
        self._fresh.append((conversation, item))

    def take(self, now_s: float) -> T | None:
        """The delivery to handle now, or None. Call `succeeded` or `failed` before the next call."""
        if self._current is not None:
            raise RuntimeError("the current delivery was neither succeeded nor failed yet")
        due = [(held.due_s, index, key) for index, (key, held) in enumerate(self._held.items()) if held.due_s <= now_s]
        if due:
            key = min(due)[2]
            self._current = (key, self._held[key].items.popleft())
            return self._current[1]
        while self._fresh:
            key, item = self._fresh.popleft()
            if key in self._held:
                self._held[key].items.append(item)
                continue
            self._current = (key, item)
            return item
        return None

    def next_due_s(self) -> float | None:
        """When the first of the failed deliveries is tried again, by `take`'s clock; None if there is none."""
        return min((held.due_s for held in self._held.values()), default=None)

    def succeeded(self) -> None:
        """The current delivery needs no other attempt: it was handled or given up."""
        key, _ = self._current_one()
        self._current = None
        held = self._held.get(key)
        if held is None:
            return
        held.failures, held.due_s = 0, 0.0
        if not held.items:
            del self._held[key]

    def failed(self, now_s: float, chance: float) -> float | None:
        """Try the current delivery again later. Returns after how many seconds; None if it had all its attempts.

        ``chance`` is a random number from 0 to 1, for jitter. After None the caller gives the delivery up and
        then calls `succeeded`.
        """
        key, item = self._current_one()
        held = self._held.get(key)
        failures = (held.failures if held else 0) + 1
        if failures >= self._max_attempts:
            return None
        held = self._held.setdefault(key, _Held())
        delay_s = self._backoff.delay_s(failures, chance)
        held.items.appendleft(item)
        held.failures, held.due_s = failures, now_s + delay_s
        self._current = None
        return delay_s

    def _current_one(self) -> tuple[Hashable, T]:
        if self._current is None:
            raise RuntimeError("there is no current delivery")
        return self._current
