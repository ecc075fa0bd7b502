"""A port's lane counters in the process's metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from services.node_agent.metrics import Direction, NodeMetrics
from services.node_agent.transfers.lane_metrics import LaneMetrics
from shared.page_stream.bodies import StreamKind
from shared.topology import Lane
from tests.support.lane_traffic import hot_stream, pump

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair


async def test_lanes_are_metered_while_they_run(pair: Pair) -> None:
    """All that a port's hypervisor gave is counted; what is under way is nothing again at the end."""
    lanes_a, lanes_b = pair.lanes_a, pair.lanes_b
    metrics = NodeMetrics(CollectorRegistry())
    meter = LaneMetrics(lanes_a, metrics)
    data = hot_stream(6)
    async with asyncio.timeout(20):
        with meter.counting():
            sent = lanes_a.memory.open_stream(StreamKind.MEMORY, "memory")
            await asyncio.gather(pump(lanes_a, sent, data, hold=0), pump(lanes_b, await lanes_b.memory.accept(), b""))
            meter._count()
            allowed = metrics.lane_raw_allowed_bytes.labels(Lane.MEMORY)._value.get()
            assert allowed == lanes_a.memory.stats().allowed_out_raw_bytes > 0
    counted = metrics.stream_raw_bytes_total.labels(Lane.MEMORY, lanes_a.route(Lane.MEMORY), Direction.OUTBOUND)
    assert counted._value.get() == len(data)
    assert lanes_a.memory.stats().raw_sent_bytes == pytest.approx(len(data), rel=0.001)
    assert [gauge.labels(Lane.MEMORY)._value.get() for gauge in metrics.lane_gauges] == [0, 0, 0, 0]
