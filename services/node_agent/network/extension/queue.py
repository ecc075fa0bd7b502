"""BatchQueue: what waits for the lane, or for the guest. Pure; time is an argument. Full, it drops the oldest."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Batch:
    records: bytes
    frames: int
    since_s: float


class BatchQueue:
    """Batches of encoded records, in order, up to a number of bytes, and of seconds where one is given.

    A packet that has waited long is of no use: its sender has sent it again, and what comes behind it waits as well.
    """

    def __init__(self, limit_bytes: int, *, limit_s: float | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._limit_s = limit_s
        self._batches: deque[_Batch] = deque()
        self.held_bytes = 0
        self.dropped_frames = 0
        """So far, for want of room or because they had waited too long."""

    def __bool__(self) -> bool:
        return bool(self._batches)

    def put(self, records: bytes, frames: int, now_s: float) -> None:
        """Add a batch of so many frames; the oldest go where there is no room, the new one too if it is too large."""
        self._batches.append(_Batch(records, frames, now_s))
        self.held_bytes += len(records)
        while self.held_bytes > self._limit_bytes:
            self._drop_oldest()

    def take(self, limit_bytes: int, now_s: float) -> bytes:
        """The oldest batches that have so many bytes together, and at least one; empty if there is none."""
        while self._limit_s is not None and self._batches and now_s - self._batches[0].since_s > self._limit_s:
            self._drop_oldest()
        parts: list[bytes] = []
        size = 0
        while self._batches and (not parts or size + len(self._batches[0].records) <= limit_bytes):
            batch = self._batches.popleft()
            parts.append(batch.records)
            size += len(batch.records)
        self.held_bytes -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _drop_oldest(self) -> None:
        old = self._batches.popleft()
        self.held_bytes -= len(old.records)
        self.dropped_frames += old.frames
