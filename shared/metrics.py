"""What vmport measures, for Prometheus: one registry per process, one class per role. Prefix ``vmport_``, base units.

Owns names, labels and help texts. Counts nothing itself: shells count. No label holds a port, VM or tenant: their
number has no bound; a port's own figures are in the broker's ledger. Words (downtime, outage) are the documents'.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from shared.messages import MESSAGE_TYPES
from shared.messages.service_change import PortPhase
from shared.topology import Lane

DOWNTIME_BUCKETS_S = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
PHASE_BUCKETS_S = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
HANDLER_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

PORT_OUTCOMES = (
    PortPhase.COMPLETED,
    PortPhase.FAILED,
    PortPhase.CANCELLED,
    PortPhase.REFUSED,
    PortPhase.PLANNED,
)


class Route(StrEnum):
    """How page-stream bytes travel."""

    RELAY = "relay"
    DIRECT = "direct"


class Direction(StrEnum):
    """Seen from this node."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"


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
            "How late the event loop was at its last wake-up; large when something blocks it.",
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
            "Messages that this consumer gave up, by code.",
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
            "Messages ready in this party's own queues (inbox, dead).",
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


class BrokerMetrics:
    """What the broker measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.store = StoreMetrics(registry)
        self.refusals_total = RefusalMetrics(registry).refusals_total
        self.ports_total = Counter(
            "vmport_ports_total",
            "Ports that ended, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.ports_active = Gauge(
            "vmport_ports_active",
            "Ports under way, by phase.",
            ("phase",),
            registry=registry,
        )
        self.phase_duration_seconds = Histogram(
            "vmport_port_phase_duration_seconds",
            "How long ports stayed in a phase.",
            ("phase",),
            buckets=PHASE_BUCKETS_S,
            registry=registry,
        )
        self.downtime_seconds = Histogram(
            "vmport_downtime_seconds",
            "From the vCPUs' pause at the donor to their first run at the recipient, per completed port.",
            buckets=DOWNTIME_BUCKETS_S,
            registry=registry,
        )
        self.outage_seconds = Histogram(
            "vmport_outage_seconds",
            "The longest silence of the VM around the switchover, per completed port where it was measured.",
            buckets=DOWNTIME_BUCKETS_S,
            registry=registry,
        )
        self.switchover_commit_seconds = Histogram(
            "vmport_switchover_commit_seconds",
            "From the request for switchover to its commit in the ledger; a part of the downtime.",
            buckets=HANDLER_BUCKETS_S,
            registry=registry,
        )
        self.promises_total = Counter(
            "vmport_promises_total",
            "Completed ports by whether every promise was kept.",
            ("kept",),
            registry=registry,
        )
        self.registry_conflicts_total = Counter(
            "vmport_registry_conflicts_total",
            "Inventories that claimed a VM whose newest epoch belongs to another provider.",
            registry=registry,
        )
        for outcome in PORT_OUTCOMES:
            self.ports_total.labels(outcome)
        for phase in set(PortPhase) - set(PORT_OUTCOMES):
            self.ports_active.labels(phase).set(0)
            self.phase_duration_seconds.labels(phase)

    def show_active(self, phases: Iterable[PortPhase]) -> None:
        """Set the gauge from the phases of all ports under way."""
        counts = dict.fromkeys(set(PortPhase) - set(PORT_OUTCOMES), 0)
        for phase in phases:
            counts[phase] = counts.get(phase, 0) + 1
        for phase, count in counts.items():
            self.ports_active.labels(phase).set(count)


class AgentMetrics:
    """What a provider's donor and recipient agents measure."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.store = StoreMetrics(registry)
        self.refusals_total = RefusalMetrics(registry).refusals_total
        self.ports_active = Gauge(
            "vmport_agent_ports_active",
            "Ports in which this agent has a part now.",
            registry=registry,
        )
        self.nodes = Gauge(
            "vmport_agent_nodes",
            "Nodes of this provider, by whether they are heard.",
            ("state",),
            registry=registry,
        )


class DonorMetrics(AgentMetrics):
    """What only a donor agent measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.quarantined_bytes = Gauge(
            "vmport_quarantined_bytes",
            "Virtual size of the disks that are kept after their VM left.",
            registry=registry,
        )


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


class NodeMetrics:
    """What a node agent measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.transfers_active = Gauge(
            "vmport_transfers_active",
            "Halves of ports that this node carries out now, by direction.",
            ("direction",),
            registry=registry,
        )
        self.transfers_total = Counter(
            "vmport_transfers_total",
            "Halves of ports that ended at this node, by direction and outcome.",
            ("direction", "outcome"),
            registry=registry,
        )
        self.stream_raw_bytes_total = Counter(
            "vmport_stream_raw_bytes_total",
            "Bytes taken from or given to QEMU and libvirt, by lane, route and direction.",
            ("lane", "route", "direction"),
            registry=registry,
        )
        self.stream_wire_bytes_total = Counter(
            "vmport_stream_wire_bytes_total",
            "Bytes that lanes put on the wire or took from it, after compression, resends included.",
            ("lane", "route", "direction"),
            registry=registry,
        )
        self.stream_content_bytes_total = Counter(
            "vmport_stream_content_bytes_total",
            "Guest memory and disk that left this node, by lane and by what went for it (literal, reference, ...).",
            ("lane", "technique"),
            registry=registry,
        )
        self.lane_retransmitted_bytes_total = Counter(
            "vmport_lane_retransmitted_bytes_total",
            "Bytes that a lane sent again.",
            ("lane",),
            registry=registry,
        )
        self.lane_reconnects_total = Counter(
            "vmport_lane_reconnects_total",
            "Times that a lane went on after its route was away.",
            ("lane",),
            registry=registry,
        )
        self.lane_window_used_bytes = Gauge(
            "vmport_lane_window_used_bytes",
            "Bytes sent and not yet consumed at the other end, over all ports.",
            ("lane",),
            registry=registry,
        )
        self.lane_window_allowed_bytes = Gauge(
            "vmport_lane_window_allowed_bytes",
            "Most that may be so under way now: about bandwidth x delay, as the latest port's lane measured them.",
            ("lane",),
            registry=registry,
        )
        self.lane_raw_used_bytes = Gauge(
            "vmport_lane_raw_used_bytes",
            "Memory and disk for its hypervisor that the other end has still to make of what is under way, all ports.",
            ("lane",),
            registry=registry,
        )
        self.lane_raw_allowed_bytes = Gauge(
            "vmport_lane_raw_allowed_bytes",
            "Most that it may still have to make now, as the latest port's lane measured the other end.",
            ("lane",),
            registry=registry,
        )
        self.lane_gauges = (
            self.lane_window_used_bytes,
            self.lane_window_allowed_bytes,
            self.lane_raw_used_bytes,
            self.lane_raw_allowed_bytes,
        )
        """By lane; 0 while nothing moves."""
        self.dirty_rate_bytes_per_second = Gauge(
            "vmport_dirty_rate_bytes_per_second",
            "Memory that guests under way rewrite, as libvirt last reported, summed over this node's outbound ports.",
            registry=registry,
        )
        self.downtime_seconds = Histogram(
            "vmport_node_downtime_seconds",
            "Downtime as the donor's node measured it: an upper bound, on its own clock.",
            buckets=DOWNTIME_BUCKETS_S,
            registry=registry,
        )
        self.vms = Gauge(
            "vmport_node_vms",
            "VMs that libvirt knows at this node, by state.",
            ("state",),
            registry=registry,
        )
        for direction in Direction:
            self.transfers_active.labels(direction).set(0)
        for lane in Lane:
            self.lane_retransmitted_bytes_total.labels(lane)
            self.lane_reconnects_total.labels(lane)
            for gauge in self.lane_gauges:
                gauge.labels(lane).set(0)
