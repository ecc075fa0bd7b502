"""Names and labels of what is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from services.broker.metrics import PORT_OUTCOMES, BrokerMetrics
from services.donor_agent.metrics import DonorMetrics
from services.node_agent.metrics import NodeMetrics
from services.recipient_agent.metrics import RecipientMetrics
from shared.messages.service_change import PortPhase
from shared.metrics import Metrics

ALERTS = Path(__file__).resolve().parents[2] / "deploy/prometheus/vmport-alerts.yml"
ROLES = (BrokerMetrics, DonorMetrics, RecipientMetrics, NodeMetrics)


def families() -> list[Metric]:
    found: list[Metric] = []
    for role in ROLES:
        metrics = Metrics(service="t", version="0")
        role(metrics.registry)
        found += metrics.registry.collect()
    return found


def test_names_have_our_prefix_and_a_help_text() -> None:
    """``process_*`` are Prometheus's own."""
    for family in families():
        assert family.name.startswith(("vmport_", "process_"))
        assert len(family.documentation) > 10


def test_units_are_base_units() -> None:
    """Seconds and bytes, never milliseconds or mebibytes."""
    assert not [family.name for family in families() if re.search(r"_(ms|mib|kb|mb|minutes|percent)\b", family.name)]


def test_no_label_holds_an_id() -> None:
    """Ports, VMs and tenants have no bound."""
    labels = {label for family in families() for sample in family.samples for label in sample.labels}
    assert labels <= {
        "service", "version", "python", "type", "code", "connection", "queue", "phase", "outcome", "le", "kept",
        "direction", "lane", "route", "state", "answer", "reason",
    }  # fmt: skip


def test_every_phase_and_outcome_is_there_from_the_start() -> None:
    """A rate over a counter that just appeared would miss its first event."""
    registry = CollectorRegistry()
    BrokerMetrics(registry)
    for outcome in PORT_OUTCOMES:
        assert registry.get_sample_value("vmport_ports_total", {"outcome": outcome}) == 0
    for phase in set(PortPhase) - set(PORT_OUTCOMES):
        assert registry.get_sample_value("vmport_ports_active", {"phase": phase}) == 0


def test_active_ports_are_counted_by_phase() -> None:
    """What is no longer there goes back to zero."""
    registry = CollectorRegistry()
    broker = BrokerMetrics(registry)
    broker.show_active([PortPhase.QUOTING, PortPhase.QUOTING, PortPhase.SWITCHING])
    assert registry.get_sample_value("vmport_ports_active", {"phase": "quoting"}) == 2
    broker.show_active([])
    assert registry.get_sample_value("vmport_ports_active", {"phase": "quoting"}) == 0


def test_build_is_named() -> None:
    """Which service and release this is."""
    metrics = Metrics(service="vmport-x", version="1.2")
    (family,) = [family for family in metrics.registry.collect() if family.name == "vmport_build_info"]
    assert family.samples[0].labels["service"] == "vmport-x"
    assert family.samples[0].labels["version"] == "1.2"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bvmport_[a-z_]+", ALERTS.read_text()))))
def test_alerts_use_metrics_that_exist(name: str) -> None:
    """An alert on a misspelt metric would never fire."""
    suffixes = {"counter": ("_total",), "histogram": ("", "_bucket", "_count", "_sum"), "gauge": ("",)}
    known = {family.name + suffix for family in families() for suffix in suffixes.get(family.type, ("",))}
    assert name in known
