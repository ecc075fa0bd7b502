"""How a port ended, from the events that a watcher saw."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from shared.client.outcome import started, with_event
from shared.messages import Message, Refusal
from shared.messages.porting import OutboundStarted
from shared.messages.queries import PortShown
from shared.messages.service_change import (
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortPhase,
    PortPlanned,
    PortProgressed,
    PortRefused,
    SlaRecord,
    StreamProgress,
    TransferPhase,
)

PORT = UUID(int=1)
REFUSAL = Refusal(code="dues_open", rule="no open invoices", evidence="invoice 7")
SLA = SlaRecord(
    promised_total_s=60,
    measured_total_s=42,
    promised_downtime_ms=500,
    measured_downtime_ms=620,
    price_per_month="12.50",
    currency="EUR",
    kept=False,
)
PROGRESS = PortProgressed(
    port_id=PORT,
    phase=TransferPhase.DISK,
    percent=50,
    memory=StreamProgress(processed_bytes=3),
    disk=StreamProgress(processed_bytes=5),
    rate_bytes_per_s=1,
    wire_bytes=7,
)
FAILED = PortFailed(port_id=PORT, phase=PortPhase.SWITCHING, code="lost", detail="gone", vm_runs_at="alpha")


def after(*events: Message) -> dict[str, object]:
    outcome = started(PORT)
    for event in events:
        outcome = with_event(outcome, event)
    return {name: value for name, value in outcome if value != getattr(started(PORT), name)}


def test_completed() -> None:
    """A completed port has the broker's own figures."""
    end = PortCompleted(
        port_id=PORT, recipient="beta", epoch=2, sla=SLA, memory_bytes=10, disk_bytes=20, wire_bytes=15, warnings=("w",)
    )

    assert after(PROGRESS, end) == {
        "outcome": PortPhase.COMPLETED,
        "vm_runs_at": "beta",
        "sla": SLA,
        "memory_bytes": 10,
        "disk_bytes": 20,
        "wire_bytes": 15,
        "warnings": ("w",),
    }


def test_failed_keeps_what_had_moved() -> None:
    """A failed port says why, where the VM runs, and what had been moved by then."""
    assert after(PROGRESS, FAILED) == {
        "outcome": PortPhase.FAILED,
        "detail": "lost in phase switching: gone",
        "vm_runs_at": "alpha",
        "memory_bytes": 3,
        "disk_bytes": 5,
        "wire_bytes": 7,
    }


def test_other_ends() -> None:
    """Cancelled, refused and planned ports end as such."""
    assert after(PortCancelled(port_id=PORT, phase=PortPhase.QUOTING))["outcome"] is PortPhase.CANCELLED
    assert after(PortRefused(port_id=PORT, refused_by="broker", refusals=(REFUSAL,))) == {
        "outcome": PortPhase.REFUSED,
        "detail": "refused by broker",
        "refusals": (REFUSAL,),
    }
    assert after(PortPlanned(port_id=PORT, quotes=(), declined={}))["outcome"] is PortPhase.PLANNED


def test_record_of_an_ended_port(record: Callable[..., PortShown]) -> None:
    """Who comes late learns the same from the broker's record."""
    shown = record(PORT, PortPhase.COMPLETED, sla=SLA, progress=PROGRESS)

    assert after(shown) == {
        "outcome": PortPhase.COMPLETED,
        "vm_runs_at": "beta",
        "sla": SLA,
        "memory_bytes": 3,
        "disk_bytes": 5,
        "wire_bytes": 7,
    }
    assert after(record(PORT, PortPhase.FAILED, failure="no route"))["detail"] == "no route"


def test_events_of_no_consequence() -> None:
    """What says nothing about the outcome changes nothing."""
    assert after(OutboundStarted(port_id=PORT)) == {}
    assert after(PROGRESS)["outcome"] is PortPhase.TRANSFERRING


def test_where_the_vm_runs_is_known_until_the_switchover(record: Callable[..., PortShown]) -> None:
    """The donor runs it until then, and where there is no switchover; a record of a failure does not say."""
    cancelled = PortCancelled(port_id=PORT, phase=PortPhase.TRANSFERRING)

    assert after(record(PORT, PortPhase.TRANSFERRING), cancelled)["vm_runs_at"] == "alpha"
    assert after(record(PORT, PortPhase.CANCELLED))["vm_runs_at"] == "alpha"
    assert "vm_runs_at" not in after(record(PORT, PortPhase.TRANSFERRING), record(PORT, PortPhase.FAILED))
    assert after(record(PORT, PortPhase.TRANSFERRING), FAILED)["vm_runs_at"] == "alpha"
