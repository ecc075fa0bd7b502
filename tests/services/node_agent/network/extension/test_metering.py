"""An extension's counters become the process's metrics."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry

from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.extension.metering import ExtensionMetering
from services.node_agent.network.extension.stats import CardCounters, ExtensionStats
from services.node_agent.network.extension.verdict import Reason


async def test_each_frame_counts_once() -> None:
    """Cards are added up, what was counted before is not counted again, and the rest comes at the end."""
    registry = CollectorRegistry()
    cards = {0: CardCounters(), 1: CardCounters()}

    def stats() -> ExtensionStats:
        return ExtensionStats(
            cards={number: card.snapshot(activated=True) for number, card in cards.items()},
            sessions=1,
            connected=True,
            idle_s=0.0,
        )

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"vmport_{name}", labels)

    metering = ExtensionMetering(NodeMetrics(registry), stats)
    running = asyncio.ensure_future(metering.run())
    await asyncio.sleep(0)
    assert value("extensions") == 1
    cards[0].sent(2, 100)
    cards[1].sent(1, 60)
    cards[1].received(50)
    cards[0].dropped[Reason.OTHER_MAC] += 3
    metering.count()
    metering.count()
    assert value("extension_frames_total", direction="outbound") == 3
    assert value("extension_bytes_total", direction="outbound") == 160
    assert value("extension_dropped_frames_total", reason="other_mac") == 3
    cards[1].received(50)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert value("extension_frames_total", direction="inbound") == 2
    assert value("extensions") == 0
