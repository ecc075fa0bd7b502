"""Metrics of the recipient agent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.metrics import AgentMetrics


class RecipientMetrics(AgentMetrics):
    """What only a recipient agent measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.quotes_total = Counter(
            "vmport_quotes_total",
            "Quotes asked for, by answer (offered, declined).",
            ("answer",),
            registry=registry,
        )
        self.reservations_active = Gauge(
            "vmport_reservations_active",
            "Reservations that hold capacity now.",
            registry=registry,
        )
