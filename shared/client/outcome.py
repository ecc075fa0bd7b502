"""How a port ended, in one value: collected from the events that a watcher saw, or from the broker's record. Pure."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from shared.messages import Message, Refusal
from shared.messages.base import Value
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
)

_AT_DONOR = frozenset(
    {
        PortPhase.APPROVAL,
        PortPhase.QUOTING,
        PortPhase.RESERVING,
        PortPhase.SCHEDULED,
        PortPhase.PREPARING,
        PortPhase.STARTING,
        PortPhase.TRANSFERRING,
        PortPhase.CANCELLED,
        PortPhase.REFUSED,
        PortPhase.PLANNED,
    }
)
"""Before the switchover, and where there was none, the donor runs the VM."""


class Outcome(Value):
    """The end of a port, or where it is now. Byte counts are those of the last report before the end."""

    port_id: UUID
    outcome: PortPhase
    detail: str = ""
    vm_runs_at: str | None = Field(default=None, description="The provider that runs the VM now, where it is known.")
    sla: SlaRecord | None = Field(default=None, description="Promised against measured; only of a completed port.")
    memory_bytes: int = 0
    disk_bytes: int = 0
    wire_bytes: int = 0
    seeded_bytes: int = Field(default=0, description="Seeded before the window, part of wire_bytes; known at the end.")
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()


def started(port_id: UUID) -> Outcome:
    """What is known of a port before its first event."""
    return Outcome(port_id=port_id, outcome=PortPhase.APPROVAL)


def with_event(before: Outcome, data: Message) -> Outcome:
    """What is known after one more event."""
    match data:
        case PortShown():
            return _from_record(before, data)
        case PortProgressed():
            return _with_progress(before, data).model_copy(update={"outcome": PortPhase.TRANSFERRING})
        case PortCompleted():
            return before.model_copy(
                update={
                    "outcome": PortPhase.COMPLETED,
                    "vm_runs_at": data.recipient,
                    "sla": data.sla,
                    "memory_bytes": data.memory_bytes,
                    "disk_bytes": data.disk_bytes,
                    "wire_bytes": data.wire_bytes,
                    "seeded_bytes": data.seeded_bytes,
                    "warnings": data.warnings,
                }
            )
        case PortFailed():
            detail = f"{data.code} in phase {data.phase}: {data.detail}"
            return before.model_copy(
                update={"outcome": PortPhase.FAILED, "detail": detail, "vm_runs_at": data.vm_runs_at}
            )
        case PortCancelled():
            return before.model_copy(
                update={"outcome": PortPhase.CANCELLED, "detail": f"cancelled in phase {data.phase}"}
            )
        case PortRefused():
            detail = f"refused by {data.refused_by}"
            return before.model_copy(update={"outcome": PortPhase.REFUSED, "detail": detail, "refusals": data.refusals})
        case PortPlanned():
            return before.model_copy(update={"outcome": PortPhase.PLANNED})
        case _:
            return before


def _from_record(before: Outcome, shown: PortShown) -> Outcome:
    known = _with_progress(before, shown.progress) if shown.progress else before
    runs_at = known.vm_runs_at
    if shown.summary.phase is PortPhase.COMPLETED:
        runs_at = shown.summary.recipient
    elif shown.summary.phase in _AT_DONOR:
        runs_at = shown.summary.donor
    elif shown.summary.phase is PortPhase.FAILED:
        runs_at = None  # a port can fail on either side of its switchover; the registry knows
    return known.model_copy(
        update={
            "outcome": shown.summary.phase,
            "detail": shown.failure or known.detail,
            "sla": shown.sla or known.sla,
            "vm_runs_at": runs_at,
            "refusals": shown.refusals or known.refusals,
        }
    )


def _with_progress(before: Outcome, progress: PortProgressed) -> Outcome:
    return before.model_copy(
        update={
            "memory_bytes": progress.memory.processed_bytes,
            "disk_bytes": progress.disk.processed_bytes,
            "wire_bytes": progress.wire_bytes,
        }
    )
