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
    """The node agent's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.transfers_active = Gauge(
            "vmport_transfers_active",
            "Transfers that are active at this node, by direction.",
            ("direction",),
            registry=registry,
        )
        self.transfers_total = Counter(
            "vmport_transfers_total",
            "Transfers that ended at this node, by direction and outcome.",
            ("direction", "outcome"),
            registry=registry,
        )
        self.stream_raw_bytes_total = Counter(
            "vmport_stream_raw_bytes_total",
            "Bytes read from or written to QEMU and libvirt, by lane, route and direction.",
            ("lane", "route", "direction"),
            registry=registry,
        )
        self.stream_wire_bytes_total = Counter(
            "vmport_stream_wire_bytes_total",
            "Bytes that lanes sent or received on the wire, compressed, retransmissions included.",
            ("lane", "route", "direction"),
            registry=registry,
        )
        self.stream_content_bytes_total = Counter(
            "vmport_stream_content_bytes_total",
            "Guest memory and disk that left this node, bytes, by lane and technique (literal, reference, ...).",
            ("lane", "technique"),
            registry=registry,
        )
        self.lane_retransmitted_bytes_total = Counter(
            "vmport_lane_retransmitted_bytes_total",
            "Bytes that a lane retransmitted.",
            ("lane",),
            registry=registry,
        )
        self.lane_reconnects_total = Counter(
            "vmport_lane_reconnects_total",
            "Times that a lane resumed after its route was down.",
            ("lane",),
            registry=registry,
        )
        self.lane_window_used_bytes = Gauge(
            "vmport_lane_window_used_bytes",
            "Bytes in flight: sent and not yet consumed at the other end, all ports.",
            ("lane",),
            registry=registry,
        )
        self.lane_window_allowed_bytes = Gauge(
            "vmport_lane_window_allowed_bytes",
            "Current in-flight limit, bytes: about bandwidth x delay, as measured by the latest port's lane.",
            ("lane",),
            registry=registry,
        )
        self.lane_raw_used_bytes = Gauge(
            "vmport_lane_raw_used_bytes",
            "Bytes in flight as decoded memory and disk, which the other end has still to write; all ports.",
            ("lane",),
            registry=registry,
        )
        self.lane_raw_allowed_bytes = Gauge(
            "vmport_lane_raw_allowed_bytes",
            "Current in-flight limit in decoded bytes, as measured by the latest port's lane.",
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
            "Dirty rate of the guests that leave, as libvirt last reported, summed over outbound transfers.",
            registry=registry,
        )
        self.downtime_seconds = Histogram(
            "vmport_node_downtime_seconds",
            "Downtime as the donor's node measured it: an upper bound, on its own clock.",
            buckets=DOWNTIME_BUCKETS_S,
            registry=registry,
        )
        self.switchovers_held = Gauge(
            "vmport_switchovers_held",
            "Outbound transfers whose switchover is held off, because the broker could not commit it now.",
            registry=registry,
        )
        self.vms = Gauge(
            "vmport_node_vms",
            "VMs that libvirt knows at this node, by state.",
            ("state",),
            registry=registry,
        )
        self.start_hook = Gauge(
            "vmport_node_start_hook",
            "1 where libvirt's hook that refuses to start VMs which left this host is in place, else 0.",
            registry=registry,
        )
        self.second_copies_total = Counter(
            "vmport_node_second_copies_total",
            "Copies of VMs that had left for good, found alive at this node and destroyed.",
            registry=registry,
        )
        self.extensions = Gauge(
            "vmport_extensions",
            "Network extensions that run at this node.",
            registry=registry,
        )
        self.extension_frames_total = Counter(
            "vmport_extension_frames_total",
            "Ethernet frames that network extensions carried, by direction.",
            ("direction",),
            registry=registry,
        )
        self.extension_bytes_total = Counter(
            "vmport_extension_bytes_total",
            "Bytes of the Ethernet frames that network extensions carried, by direction.",
            ("direction",),
            registry=registry,
        )
        self.extension_dropped_frames_total = Counter(
            "vmport_extension_dropped_frames_total",
            "Ethernet frames that network extensions did not carry, by reason.",
            ("reason",),
            registry=registry,
        )
        for direction in Direction:
            self.extension_frames_total.labels(direction)
            self.extension_bytes_total.labels(direction)
            self.transfers_active.labels(direction).set(0)
        for lane in Lane:
            self.lane_retransmitted_bytes_total.labels(lane)
            self.lane_reconnects_total.labels(lane)
            for gauge in self.lane_gauges:
                gauge.labels(lane).set(0)
