"""Which messages settle a port for its tenant, and what each means: an answer, or the error that is raised. Pure."""

from __future__ import annotations

from typing import Final, TypeVar

from shared.client.errors import CancelNotPossible, NotUnderstood, PortEndedOtherwise, PortNotAllowed
from shared.messages import Message
from shared.messages.porting import PortingFixed, ServiceChangeAgreement
from shared.messages.queries import PortShown
from shared.messages.service_change import (
    CancelRefused,
    MessageRejected,
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortPhase,
    PortPlanned,
    PortRefused,
)
from shared.parties import BROKER

M = TypeVar("M", bound=Message)

ENDS: Final = (PortCompleted, PortFailed, PortCancelled, PortRefused, PortPlanned)
"""After one of these there are no more events of a port."""

END_PHASES: Final = frozenset(
    {PortPhase.COMPLETED, PortPhase.FAILED, PortPhase.CANCELLED, PortPhase.REFUSED, PortPhase.PLANNED}
)


def is_end(data: Message) -> bool:
    """Whether the port says nothing more after this."""
    return isinstance(data, ENDS) or (isinstance(data, PortShown) and data.summary.phase in END_PHASES)


def agreement_in(data: Message) -> ServiceChangeAgreement | None:
    """The agreement, where this event or record has one; raises what ended the port without one."""
    match data:
        case PortingFixed(agreement=agreement):
            return agreement
        case PortShown(summary=summary, agreement=agreement):
            if summary.phase is PortPhase.REFUSED:
                raise PortNotAllowed(_refused_by(data), data.refusals)
            if summary.phase in END_PHASES and summary.phase is not PortPhase.COMPLETED:
                raise PortEndedOtherwise(summary.port_id, summary.phase, code=summary.phase, detail=data.failure or "")
            return agreement
        case PortRefused(refused_by=refused_by, refusals=refusals):
            raise PortNotAllowed(refused_by, refusals)
        case PortFailed() | PortCancelled() | PortCompleted():
            raise PortEndedOtherwise.by(data)
        case _:
            return None


def _refused_by(shown: PortShown) -> str:
    """Whose message ended the port, by its record."""
    return str(shown.events[-1].sender) if shown.events else str(BROKER)


def settled(data: Message, wanted: type[M]) -> M | None:
    """The wanted event; raises what settled it otherwise; None for an event that settles nothing."""
    if isinstance(data, wanted):
        return data
    match data:
        case PortRefused(refused_by=refused_by, refusals=refusals):
            raise PortNotAllowed(refused_by, refusals)
        case CancelRefused(code=code, detail=detail):
            raise CancelNotPossible(code, detail)
        case MessageRejected(code=code, reason=reason):
            raise NotUnderstood(code, reason)
        case PortFailed() | PortCompleted() | PortCancelled():
            raise PortEndedOtherwise.by(data)
        case _:
            return None
