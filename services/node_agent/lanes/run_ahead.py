"""RunAhead: payloads that are ready before the lane takes them, so that a codec's slow stretches do not idle the link.

What waits here stands in front of the lane's flight, and a switchover would wait for it: so nothing may wait when the
encoder says that one may be near. While it is far, the other application may be behind, too: a few kB of references may
be megabytes for it to write, and were they held to what it takes while the link is the bottleneck, it would idle when
they come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from services.node_agent.lanes.stream import LaneStream

AHEAD_BYTES: Final = 8 << 20
"""Two thirds of a second at 100 Mbit/s; a stretch of zeros and known contents takes the codec about that."""
AHEAD_RAW_BYTES: Final = 32 * AHEAD_BYTES
"""A stretch of references: what is encoded of it while the link is busy need not be when the link would idle."""
READER_LEAD_BYTES: Final = 32 << 20
"""Raw bytes that the lane may have under way before the other application, however few it was measured to take."""


class RunAhead:
    """One stream's queue of payloads. `run` moves them; one task writes."""

    def __init__(self, stream: LaneStream) -> None:
        self._stream = stream
        self._queue: deque[tuple[bytes, int, int]] = deque()
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._closed = False
        self.queued_bytes = 0
        """What the lane has not taken."""
        self.queued_raw_bytes = 0
        """What the other application makes of it."""

    async def write(self, payload: bytes, *, raw_bytes: int, lead: float) -> None:
        """Return when the lane has it, or, with a `lead`, when no more than that part of AHEAD_BYTES waits.

        Raises what the stream does.
        """
        if not lead and not self._queue:
            await self._stream.write(payload, raw_bytes=raw_bytes)
            return
        self._queue.append((payload, raw_bytes, round(lead * READER_LEAD_BYTES)))
        self.queued_bytes += len(payload)
        self.queued_raw_bytes += raw_bytes
        self._more.set()
        await self._wait_until(lambda: self._is_small(lead) if lead else self._is_empty())

    async def close(self) -> None:
        """Return when all is taken; `run` ends."""
        await self._wait_until(self._is_empty)
        self._closed = True
        self._more.set()

    async def run(self) -> None:
        """Give the stream what waits. Raises what it does: LaneError, StreamError."""
        while not self._closed or self._queue:
            if not self._queue:
                self._more.clear()
                await self._more.wait()
                continue
            payload, raw_bytes, raw_lead_bytes = self._queue[0]
            await self._stream.write(payload, raw_bytes=raw_bytes, raw_lead_bytes=raw_lead_bytes)
            self._queue.popleft()
            self.queued_bytes -= len(payload)
            self.queued_raw_bytes -= raw_bytes
            self._less.set()

    def _is_small(self, lead: float) -> bool:
        return self.queued_bytes <= lead * AHEAD_BYTES and self.queued_raw_bytes <= lead * AHEAD_RAW_BYTES

    def _is_empty(self) -> bool:
        return not self._queue

    async def _wait_until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            self._less.clear()
            await self._less.wait()
