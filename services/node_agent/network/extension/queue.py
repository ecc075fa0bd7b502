"""BatchQueue: what waits for the lane, or for the guest. Pure. Full, it drops the oldest: as a network does."""

from __future__ import annotations

from collections import deque


class BatchQueue:
    """Batches of encoded records, in order, up to a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._batches: deque[tuple[bytes, int]] = deque()
        self.held_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def put(self, batch: bytes, frames: int) -> int:
        """Add a batch of so many frames; returns how many were dropped instead, the newest too if it is too large."""
        self._batches.append((batch, frames))
        self.held_bytes += len(batch)
        dropped = 0
        while self.held_bytes > self._limit_bytes:
            old, lost = self._batches.popleft()
            self.held_bytes -= len(old)
            dropped += lost
        return dropped

    def take(self, limit_bytes: int) -> bytes:
        """The oldest batches that have so many bytes together, and at least one; empty if there is none."""
        parts: list[bytes] = []
        size = 0
        while self._batches and (not parts or size + len(self._batches[0][0]) <= limit_bytes):
            batch, _ = self._batches.popleft()
            parts.append(batch)
            size += len(batch)
        self.held_bytes -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def clear(self) -> int:
        """Drop all; returns how many frames that were."""
        dropped = sum(frames for _, frames in self._batches)
        self._batches.clear()
        self.held_bytes = 0
        return dropped
