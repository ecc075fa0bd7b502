"""What a tenant's client raises. Each holds its facts; the sentence is made from them, and `code` is stable."""

from __future__ import annotations

from uuid import UUID

from shared.errors import VmportError
from shared.messages import Refusal
from shared.messages.service_change import PortCompleted, PortFailed


class NoAnswer(VmportError):
    """The broker did not answer in time."""

    code = "timed_out"

    def __init__(self, asked: str, timeout_s: float, *, advice: str = "try again, or raise --timeout") -> None:
        self.asked = asked
        self.timeout_s = timeout_s
        super().__init__(f"the broker did not answer {asked} within {timeout_s:g} s; {advice}")


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
    """The port cannot be cancelled any more, or was never there."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"the port is not cancelled: {detail}")


class NotUnderstood(VmportError):
    """The broker could not read what this client sent; its release differs."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(
            f"the broker could not accept the message: {reason}; compare the releases of client and broker"
        )


class PortEndedOtherwise(VmportError):
    """A dry run or a cancel ended in something else than was asked for."""

    def __init__(self, end: PortFailed | PortCompleted) -> None:
        self.end = end
        self.code = end.code if isinstance(end, PortFailed) else "already_completed"
        said = f"it failed: {end.detail}" if isinstance(end, PortFailed) else "it was completed before"
        super().__init__(f"port {end.port_id} ended otherwise: {said}")


class PortWasCancelled(VmportError):
    """The port was cancelled before it was fixed."""

    code = "cancelled"

    def __init__(self, port_id: UUID) -> None:
        self.port_id = port_id
        super().__init__(f"port {port_id} was cancelled before it was fixed")
