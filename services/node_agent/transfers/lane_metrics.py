"""Carries a port's lane counters into the process's metrics, once a second and at the end.

Bytes on the wire are counted by the links themselves, which know the route of each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.node_agent.lanes.core.stats import LaneStats
from services.node_agent.metrics import Direction, NodeMetrics
from services.node_agent.transfers.port_lanes import PortLanes
from shared.tasks import Tasks
from shared.topology import Lane

EVERY_S = 1.0


class LaneMetrics:
    """Counts one port's lanes while `counting` lasts."""

    def __init__(self, lanes: PortLanes, metrics: NodeMetrics) -> None:
        self._lanes = lanes
        self._metrics = metrics
        self._before: dict[Lane, LaneStats] = {}
        self._raw: dict[tuple[Lane, Direction], int] = {}
        self._contents: dict[tuple[Lane, str], int] = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count inside the block."""
        tasks = Tasks("lane metrics")
        ticking = tasks.spawn(self._tick(), name="tick")
        try:
            yield
        finally:
            ticking.cancel()
            self._count()
            for lane in Lane:
                for gauge in self._metrics.lane_gauges:
                    gauge.labels(lane).set(0)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self._count()

    def _count(self) -> None:
        for lane, now in self._lanes.stats().items():
            before, self._before[lane] = self._before.get(lane), now
            self._metrics.lane_retransmitted_bytes_total.labels(lane).inc(
                now.resent_bytes - (before.resent_bytes if before else 0)
            )
            self._metrics.lane_reconnects_total.labels(lane).inc(now.reconnects - (before.reconnects if before else 0))
            self._metrics.lane_window_used_bytes.labels(lane).set(now.unconsumed_out_bytes)
            self._metrics.lane_window_allowed_bytes.labels(lane).set(now.allowed_out_bytes)
            self._metrics.lane_raw_used_bytes.labels(lane).set(now.unconsumed_out_raw_bytes)
            self._metrics.lane_raw_allowed_bytes.labels(lane).set(now.allowed_out_raw_bytes)
            for direction, raw in zip(
                (Direction.OUTBOUND, Direction.INBOUND), self._lanes.raw_bytes_by_direction(lane), strict=True
            ):
                known = self._raw.get((lane, direction), 0)
                self._raw[lane, direction] = raw
                self._metrics.stream_raw_bytes_total.labels(lane, self._lanes.route(lane), direction).inc(raw - known)
            for technique, size in self._lanes.contents(lane).items():
                known = self._contents.get((lane, technique), 0)
                self._contents[lane, technique] = size
                self._metrics.stream_content_bytes_total.labels(lane, technique).inc(size - known)
