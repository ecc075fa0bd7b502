"""RunAhead: a queue of encoded payloads before the lane, so that the link does not idle while the codec is slow.

A switchover waits for what is queued here, so nothing may be queued when the encoder says that one may be near. While
it is far, the other application may lag as well: a few kB of references may be megabytes for it to write. If those were
limited to the rate at which it writes, the link would idle as soon as they come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from services.node_agent.lanes.stream import LaneStream

AHEAD_BYTES: Final = 8 << 20
"""0.67 s at 100 Mbit/s: about as long as the codec needs for a run of zeros and known contents."""
AHEAD_RAW_BYTES: Final = 32 * AHEAD_BYTES
"""For a run of references: what is encoded while the link is busy need not be encoded when it would idle."""
READER_LEAD_BYTES: Final = 32 << 20
"""Raw bytes that may be in flight to the other application, whatever rate was measured for it."""


class RunAhead:
    """One stream's queue of payloads. `run` moves them; one task writes."""

    def __init__(self, stream: LaneStream) -> None:
        self._stream = stream
        self._queue: deque[tuple[bytes, int, int]] = deque()
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._closed = False
        self.queued_bytes = 0
        """Payload bytes that the lane has not taken."""
        self.queued_raw_bytes = 0
        """The same after decoding at the other end."""

    async def write(self, payload: bytes, *, raw_bytes: int, lead: float) -> None:
        """Return when the lane has it, or, with a `lead` above 0, when at most that part of AHEAD_BYTES is queued.

        Raises what `LaneStream.write` raises.
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
        """Write what is queued to the stream. Raises LaneError, StreamError."""
        while not self._closed or self._queue:
            if not self._queue:
                self._more.clear()
                await self._more.wait()
                continue
            payload, raw_bytes, raw_lead_bytes = self._queue[0]
            # It stays in the queue while it is written: later payloads must not overtake it, and `close` waits for it.
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
