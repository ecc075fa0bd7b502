"""RunAhead: payloads that are ready before the lane takes them, so that a codec's slow stretches do not idle the link.

What waits here stands in front of the lane's flight, and a switchover would wait for it: so nothing may wait when the
encoder says that one may be near.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from services.node_agent.lanes.stream import LaneStream

AHEAD_BYTES: Final = 8 << 20
"""Two thirds of a second at 100 Mbit/s; a stretch of zeros and known contents takes the codec about that."""


class RunAhead:
    """One stream's queue of payloads. `run` moves them; one task writes."""

    def __init__(self, stream: LaneStream) -> None:
        self._stream = stream
        self._queue: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._closed = False
        self.queued_bytes = 0
        """What the lane has not taken."""

    async def write(self, payload: bytes, *, ahead: bool) -> None:
        """Return when the lane has it, or, `ahead`, when no more than AHEAD_BYTES wait. Raises what the stream does."""
        if not ahead and not self._queue:
            await self._stream.write(payload)
            return
        self._queue.append(payload)
        self.queued_bytes += len(payload)
        self._more.set()
        await self._wait_for(AHEAD_BYTES if ahead else 0)

    async def close(self) -> None:
        """Return when all is taken; `run` ends."""
        await self._wait_for(0)
        self._closed = True
        self._more.set()

    async def run(self) -> None:
        """Give the stream what waits. Raises what it does: LaneError, StreamError."""
        while not self._closed or self._queue:
            if not self._queue:
                self._more.clear()
                await self._more.wait()
                continue
            await self._stream.write(self._queue[0])
            self.queued_bytes -= len(self._queue.popleft())
            self._less.set()

    async def _wait_for(self, limit_bytes: int) -> None:
        while self.queued_bytes > limit_bytes:
            self._less.clear()
            await self._less.wait()
