"""What a tenant's conversation with the broker can end in besides an answer. Pure.

`BusDown` and `Undeliverable` of `shared.bus` come on top where RabbitMQ is to blame. ``code`` is stable and
machine-readable in all of them.
"""

from __future__ import annotations

from uuid import UUID

from shared.errors import VmportError
from shared.messages import Refusal
from shared.messages.service_change import PortCancelled, PortCompleted, PortFailed, PortPhase


class NoAnswer(VmportError):
    """The broker did not answer in time."""

    code = "timed_out"

    def __init__(self, asked: str, timeout_s: float, *, advice: str = "try again, or raise --timeout") -> None:
        self.asked = asked
        self.timeout_s = timeout_s
        super().__init__(f"the broker did not answer {asked} within {timeout_s:g} s; {advice}")


class NotFixedInTime(VmportError):
    """The broker has accepted the port, and within the limit it was neither fixed nor refused. The port goes on."""

    code = "timed_out"

    def __init__(self, port_id: UUID, timeout_s: float) -> None:
        self.port_id = port_id
        self.timeout_s = timeout_s
        super().__init__(
            f"port {port_id} was neither fixed nor refused within {timeout_s:g} s; it goes on: "
            f"'vmport port watch {port_id}' follows it"
        )


class QuestionFailed(VmportError):
    """The broker has no answer for this tenant."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"the broker says: {detail}")


class PortNotAllowed(VmportError):
    """The port was refused; nothing has moved."""

    code = "refused"

    def __init__(self, refused_by: str, refusals: tuple[Refusal, ...]) -> None:
        self.refused_by = refused_by
        self.refusals = refusals
        reasons = "; ".join(str(refusal) for refusal in refusals) or "no reason given"
        super().__init__(f"{refused_by} refuses the port: {reasons}")


class CancelNotPossible(VmportError):
    """The port cannot be cancelled any more, or there is no such port."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"the port cannot be cancelled: {detail}")


class NotUnderstood(VmportError):
    """The broker could not read what this client sent: their releases differ."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(
            f"the broker could not accept the message: {reason}; compare the releases of client and broker"
        )


class PortEndedOtherwise(VmportError):
    """The port ended in something else than was waited for: it failed, was cancelled, or is complete already."""

    def __init__(self, port_id: UUID, phase: PortPhase, *, code: str, detail: str) -> None:
        self.port_id = port_id
        self.phase = phase
        self.code = code
        super().__init__(f"port {port_id} {_ENDED[phase]}" + (f": {detail}" if detail else ""))

    @classmethod
    def by(cls, end: PortFailed | PortCompleted | PortCancelled) -> PortEndedOtherwise:
        """What this event says."""
        match end:
            case PortFailed(code=code, detail=detail, vm_runs_at=provider):
                said = f"{detail}; the VM runs at {provider}"
                return cls(end.port_id, PortPhase.FAILED, code=code, detail=said)
            case PortCompleted(recipient=provider):
                said = f"the VM runs at {provider}"
                return cls(end.port_id, PortPhase.COMPLETED, code="already_completed", detail=said)
            case PortCancelled(phase=phase):
                return cls(end.port_id, PortPhase.CANCELLED, code="cancelled", detail=f"in phase {phase}")


_ENDED = {
    PortPhase.FAILED: "failed",
    PortPhase.COMPLETED: "is already completed",
    PortPhase.CANCELLED: "was cancelled",
    PortPhase.PLANNED: "was only a dry run",
}
