"""A time limit for the other application's answer that does not count outages of the link.

A limit says that the other side works too slowly. While the link is away nobody can know that, and the lane has a limit
of its own for the outage (`silence_s`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

LOOK_EVERY_S: Final = 0.5
GIVEN_BACK_S: Final = 12.0
"""An outage is noticed so late at most (`LaneSession.is_away`); what was counted of it is given back."""


class Lane(Protocol):
    """Whose answer is waited for."""

    @property
    def is_away(self) -> bool:
        """Whether the other end cannot be heard now."""
        ...


@asynccontextmanager
async def answer_within(lane: Lane, seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`: raises TimeoutError after so many seconds in which the other end was there."""
    loop = asyncio.get_running_loop()
    left_s, was_away, looked_s = seconds, False, loop.time()
    timer: asyncio.TimerHandle | None = None
    async with asyncio.timeout(None) as limit:

        def look() -> None:
            nonlocal left_s, was_away, looked_s, timer
            now_s = loop.time()
            if lane.is_away:
                if not was_away:
                    left_s = min(seconds, left_s + GIVEN_BACK_S)
                was_away = True
            else:
                left_s -= now_s - looked_s
                was_away = False
            looked_s = now_s
            if left_s <= 0:
                limit.reschedule(now_s)
            else:
                timer = loop.call_later(min(LOOK_EVERY_S, left_s), look)

        timer = loop.call_later(min(LOOK_EVERY_S, left_s), look)
        try:
            yield
        finally:
            timer.cancel()
