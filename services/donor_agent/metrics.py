"""Metrics of the donor agent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

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
        self.demands_refused_total = Counter(
            "vmport_demands_refused_total",
            "Demands of this provider that the broker found to be against a rule, by the rule's code.",
            ("code",),
            registry=registry,
        )
