"""Metrics of the node agent."""

from __future__ import annotations

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.metrics import DOWNTIME_BUCKETS_S
from shared.topology import Lane


class Route(StrEnum):
    """How page-stream bytes travel."""

    RELAY = "relay"
    DIRECT = "direct"


class Direction(StrEnum):
    """Seen from this node."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"


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
