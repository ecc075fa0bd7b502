"""Carries an extension's counters into the process's metrics, once a second and at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from services.node_agent.metrics import Direction, NodeMetrics
from services.node_agent.network.extension.stats import ExtensionStats

EVERY_S = 1.0


class ExtensionMetering:
    """Counts one extension while it runs."""

    def __init__(self, metrics: NodeMetrics, stats: Callable[[], ExtensionStats]) -> None:
        self._metrics = metrics
        self._stats = stats
        self._before: Counter[tuple[str, str]] = Counter()

    async def run(self) -> None:
        """Count until cancelled."""
        self._metrics.extensions.inc()
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                self.count()
        finally:
            self.count()
            self._metrics.extensions.dec()

    def count(self) -> None:
        """Add what is new."""
        now: Counter[tuple[str, str]] = Counter()
        for card in self._stats().cards.values():
            now["frames", Direction.OUTBOUND] += card.out_frames
            now["frames", Direction.INBOUND] += card.into_frames
            now["bytes", Direction.OUTBOUND] += card.out_bytes
            now["bytes", Direction.INBOUND] += card.into_bytes
            for reason, count in card.dropped.items():
                now["dropped", reason] += count
        counters = {
            "frames": self._metrics.extension_frames_total,
            "bytes": self._metrics.extension_bytes_total,
            "dropped": self._metrics.extension_dropped_frames_total,
        }
        for (what, label), count in now.items():
            counters[what].labels(label).inc(count - self._before[what, label])
        self._before = now
