"""The broker's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.messages.addresses import ExtensionState
from shared.messages.service_change import PortPhase
from shared.metrics import DOWNTIME_BUCKETS_S, HANDLER_BUCKETS_S, RefusalMetrics, StoreMetrics

PHASE_BUCKETS_S = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
PORT_OUTCOMES = (
    PortPhase.COMPLETED,
    PortPhase.FAILED,
    PortPhase.CANCELLED,
    PortPhase.REFUSED,
    PortPhase.PLANNED,
)

WAITING = (PortPhase.RESOLVING, PortPhase.FINISHING, PortPhase.ABORTING)
"""Phases that no deadline may end: an operator may have to settle the port."""


class BrokerMetrics:
    """All metrics of a broker process, registered in ``registry``; times are in seconds."""

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
        self.waiting_oldest_seconds = Gauge(
            "vmport_ports_waiting_oldest_seconds",
            "For how long the oldest port has been in a phase that may wait for an operator, by phase; 0 if none is.",
            ("phase",),
            registry=registry,
        )
        self.phase_duration_seconds = Histogram(
            "vmport_port_phase_duration_seconds",
            "How long ports stayed in each phase.",
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
            "The longest network silence of the VM around the switchover, per completed port where it was measured.",
            buckets=DOWNTIME_BUCKETS_S,
            registry=registry,
        )
        self.switchover_commit_seconds = Histogram(
            "vmport_switchover_commit_seconds",
            "From the request for switchover to its commit in the ledger; part of the downtime.",
            buckets=HANDLER_BUCKETS_S,
            registry=registry,
        )
        self.promises_total = Counter(
            "vmport_promises_total",
            "Completed ports, by whether all promises were kept.",
            ("kept",),
            registry=registry,
        )
        self.rules_broken_total = Counter(
            "vmport_rules_broken_total",
            "What providers demanded or left undone against a rule, by how (unlawful, overdue), regime and rule.",
            ("how", "regime", "rule"),
            registry=registry,
        )
        self.registry_conflicts_total = Counter(
            "vmport_registry_conflicts_total",
            "VMs in inventories that belong to another provider by their newest epoch.",
            registry=registry,
        )
        self.dns_updates_total = Counter(
            "vmport_dns_updates_total",
            "Attempts to write a VM's records into DNS, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.dns_behind = Gauge(
            "vmport_dns_behind_vms",
            "VMs whose newest epoch is not in DNS.",
            registry=registry,
        )
        self.dns_behind_seconds = Gauge(
            "vmport_dns_behind_seconds",
            "For how long the oldest epoch has waited to be written into DNS; 0 if none does.",
            registry=registry,
        )
        self.extensions_kept = Gauge(
            "vmport_extensions_kept",
            "Donors' help with the addresses of VMs that have been ported, by state.",
            ("state",),
            registry=registry,
        )
        self.extension_oldest_seconds = Gauge(
            "vmport_extension_oldest_seconds",
            "For how long the oldest of them has been kept, since its port's end, by state; 0 if none is.",
            ("state",),
            registry=registry,
        )
        self.show_extensions({})
        for result in ("written", "unavailable", "refused"):
            self.dns_updates_total.labels(result)
        for outcome in PORT_OUTCOMES:
            self.ports_total.labels(outcome)
        for phase in WAITING:
            self.waiting_oldest_seconds.labels(phase).set(0)
        for phase in set(PortPhase) - set(PORT_OUTCOMES):
            self.ports_active.labels(phase).set(0)
            self.phase_duration_seconds.labels(phase)

    def show_active(self, phases: Iterable[PortPhase]) -> None:
        """Set ``ports_active`` from the phases of all ports under way."""
        counts = dict.fromkeys(set(PortPhase) - set(PORT_OUTCOMES), 0)
        for phase in phases:
            counts[phase] = counts.get(phase, 0) + 1
        for phase, count in counts.items():
            self.ports_active.labels(phase).set(count)

    def show_extensions(self, ages_s: Mapping[ExtensionState, tuple[int, float]]) -> None:
        """Set the gauges of extensions: how many are in each state, and the age of the oldest."""
        for state in (ExtensionState.OPEN, ExtensionState.ENDING):
            count, oldest_s = ages_s.get(state, (0, 0.0))
            self.extensions_kept.labels(state).set(count)
            self.extension_oldest_seconds.labels(state).set(max(0.0, oldest_s))

    def show_waiting(self, oldest_s: Mapping[PortPhase, float]) -> None:
        """Set ``waiting_oldest_seconds``: for how long the oldest port has been in each phase of `WAITING`."""
        for phase in WAITING:
            self.waiting_oldest_seconds.labels(phase).set(oldest_s.get(phase, 0.0))
