"""Metrics of the donor agent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from shared.metrics import AgentMetrics


class DonorMetrics(AgentMetrics):
    """What only a donor agent measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.quarantined_bytes = Gauge(
            "vmport_quarantined_bytes",
            "Virtual size of the disks that are kept after their VM left.",
            registry=registry,
        )
