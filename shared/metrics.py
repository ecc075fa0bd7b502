"""What vmport measures, for Prometheus: one registry per process, one class per role. Prefix ``vmport_``, base units.

Owns names, labels and help texts. Counts nothing itself: shells count. No label holds a port, VM or tenant: their
number has no bound; a port's own figures are in the broker's ledger. Words (downtime, outage) are the documents'.
"""

from __future__ import annotations

import sys

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from shared.messages import MESSAGE_TYPES

DOWNTIME_BUCKETS_S = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
HANDLER_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """What every process measures. Give `registry` to the class of its role."""

    def __init__(self, *, service: str, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge(
            "vmport_build_info",
            "Always 1; the labels say what runs.",
            ("service", "version", "python"),
            registry=self.registry,
        )
        build.labels(service, version, ".".join(map(str, sys.version_info[:3]))).set(1)
        self.event_loop_lag_seconds = Gauge(
            "vmport_event_loop_lag_seconds",
            "How late the event loop last woke up; large when something blocks it.",
            registry=self.registry,
        )
        self.bus = BusMetrics(self.registry)


class BusMetrics:
    """The process's side of the bus. The bus counts these itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.messages_received_total = Counter(
            "vmport_bus_messages_received_total",
            "Messages handled to the end, by type.",
            ("type",),
            registry=registry,
        )
        self.messages_published_total = Counter(
            "vmport_bus_messages_published_total",
            "Messages that the bus confirmed as stored, by type.",
            ("type",),
            registry=registry,
        )
        self.publish_failures_total = Counter(
            "vmport_bus_publish_failures_total",
            "Publishes that were not confirmed, by code.",
            ("code",),
            registry=registry,
        )
        self.retries_total = Counter(
            "vmport_bus_retries_total",
            "Deliveries that are tried again because the handler failed, by type.",
            ("type",),
            registry=registry,
        )
        self.dead_letters_total = Counter(
            "vmport_bus_dead_letters_total",
            "Messages that this consumer moved to the dead letters, by code.",
            ("code",),
            registry=registry,
        )
        self.handler_seconds = Histogram(
            "vmport_bus_handler_seconds",
            "How long a handler took, by message type.",
            ("type",),
            buckets=HANDLER_BUCKETS_S,
            registry=registry,
        )
        self.reconnects_total = Counter(
            "vmport_bus_reconnects_total",
            "Connections to RabbitMQ made after the first one, by purpose.",
            ("connection",),
            registry=registry,
        )
        self.connected = Gauge(
            "vmport_bus_connected",
            "1 while the connection to RabbitMQ is up, by purpose.",
            ("connection",),
            registry=registry,
        )
        self.queue_messages = Gauge(
            "vmport_bus_queue_messages",
            "Messages ready in this party's own queues (inbox, urgent, dead).",
            ("queue",),
            registry=registry,
        )
        for kind in MESSAGE_TYPES:
            self.messages_received_total.labels(kind)
            self.messages_published_total.labels(kind)


class RefusalMetrics:
    """Refusals by code, for whoever may refuse."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refusals_total = Counter(
            "vmport_refusals_total",
            "Reasons why this process refused a request, by code; one request can have several.",
            ("code",),
            registry=registry,
        )


class StoreMetrics:
    """The durable state of a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outbox_messages = Gauge(
            "vmport_outbox_messages",
            "Messages stored here that the bus has not confirmed yet.",
            registry=registry,
        )
        self.clock_offset_seconds = Gauge(
            "vmport_clock_offset_seconds",
            "How far a party's clock is ahead of this host's, by its messages; 0 below 5 s.",
            ("party",),
            registry=registry,
        )


class AgentMetrics:
    """What a provider's donor and recipient agents measure."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.store = StoreMetrics(registry)
        self.refusals_total = RefusalMetrics(registry).refusals_total
        self.ports_active = Gauge(
            "vmport_agent_ports_active",
            "Ports that this agent takes part in now.",
            registry=registry,
        )
        self.nodes = Gauge(
            "vmport_agent_nodes",
            "Nodes of this provider, by state: heard or silent.",
            ("state",),
            registry=registry,
        )
