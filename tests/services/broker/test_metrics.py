"""The broker's metrics: what is there from the start, and the gauge of the ports under way."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from services.broker.metrics import PORT_OUTCOMES, WAITING, BrokerMetrics
from services.broker.saga import ENDS
from shared.messages.addresses import ExtensionState
from shared.messages.service_change import PortPhase


def test_outcomes_are_the_ends_of_the_saga() -> None:
    """A port is counted in the end phases, and is active in all others."""
    assert set(PORT_OUTCOMES) == ENDS


def test_all_phases_and_outcomes_are_shown_from_the_start() -> None:
    """A rate over a metric that appears only later would miss the first event."""
    registry = CollectorRegistry()
    BrokerMetrics(registry)
    for outcome in PORT_OUTCOMES:
        assert registry.get_sample_value("vmport_ports_total", {"outcome": outcome}) == 0
    for phase in set(PortPhase) - set(PORT_OUTCOMES):
        assert registry.get_sample_value("vmport_ports_active", {"phase": phase}) == 0


def test_active_ports_are_counted_by_phase() -> None:
    """A phase that a port has left goes back to zero."""
    registry = CollectorRegistry()
    metrics = BrokerMetrics(registry)
    metrics.show_active([PortPhase.QUOTING, PortPhase.SWITCHING, PortPhase.SWITCHING])
    metrics.show_active([PortPhase.SWITCHING])
    shown = {
        phase: registry.get_sample_value("vmport_ports_active", {"phase": phase})
        for phase in (PortPhase.QUOTING, PortPhase.SWITCHING)
    }
    assert shown == {PortPhase.QUOTING: 0, PortPhase.SWITCHING: 1}


def test_oldest_port_that_waits() -> None:
    """A phase that no port is in any more goes back to zero, so that its alert ends."""
    registry = CollectorRegistry()
    metrics = BrokerMetrics(registry)
    metrics.show_waiting({PortPhase.RESOLVING: 700.0, PortPhase.FINISHING: 5.0})
    metrics.show_waiting({PortPhase.FINISHING: 10.0})
    shown = {
        phase: registry.get_sample_value("vmport_ports_waiting_oldest_seconds", {"phase": phase}) for phase in WAITING
    }
    assert shown == {PortPhase.RESOLVING: 0, PortPhase.FINISHING: 10, PortPhase.ABORTING: 0}


def test_extensions_are_shown_by_state() -> None:
    """A state that has none any more is 0."""
    registry = CollectorRegistry()
    metrics = BrokerMetrics(registry)
    metrics.show_extensions({ExtensionState.OPEN: (2, 90.0)})
    metrics.show_extensions({ExtensionState.ENDING: (1, 30.0)})
    for state, count, age_s in (("open", 0, 0), ("ending", 1, 30)):
        assert registry.get_sample_value("vmport_extensions_kept", {"state": state}) == count
        assert registry.get_sample_value("vmport_extension_oldest_seconds", {"state": state}) == age_s
