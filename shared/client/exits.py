"""Which exit code a command ends with, by its error or by how a port ended. The codes' texts: `shared.exit_codes`."""

from __future__ import annotations

from collections.abc import Iterable

from shared.bus import BusDown, Undeliverable
from shared.client.errors import (
    CancelNotPossible,
    NoAnswer,
    NotFixedInTime,
    PortEndedOtherwise,
    PortNotAllowed,
    QuestionFailed,
)
from shared.client.limits import BadLimits
from shared.client.outcome import Outcome
from shared.client.plan_files import BadPlanFile
from shared.client.resolve import Ambiguous, NotFound
from shared.client.units import BadValue
from shared.config import ConfigError
from shared.errors import VmportError
from shared.exit_codes import ExitCode
from shared.messages import Refusal
from shared.messages.service_change import PortPhase

_OF_PHASE = {
    PortPhase.COMPLETED: ExitCode.OK,
    PortPhase.PLANNED: ExitCode.OK,
    PortPhase.FAILED: ExitCode.PORT_FAILED,
    PortPhase.CANCELLED: ExitCode.CANCELLED,
}
_NOT_THERE = frozenset({"vm_unknown", "not_owner", "recipient_unknown"})
"""Refusals of the broker that say: there is no such VM or provider, or it is not yours."""


def exit_code_of(error: Exception) -> ExitCode:
    """The exit code of a command that this error has ended."""
    match error:
        case ConfigError():
            return ExitCode.CONFIG
        case BadValue() | BadLimits() | BadPlanFile() | Ambiguous() | VmportError(code="bad_authorisation"):
            return ExitCode.USAGE
        case NotFound():
            return ExitCode.NOT_FOUND
        case QuestionFailed(code=code):
            return ExitCode.NOT_FOUND if code in {"not_found", "not_yours"} else ExitCode.REFUSED
        case CancelNotPossible(code=code):
            return ExitCode.NOT_FOUND if code == "unknown_port" else ExitCode.REFUSED
        case PortNotAllowed(refusals=refusals):
            return exit_code_of_refusals(refusals)
        case PortEndedOtherwise(phase=phase):
            # Only a cancel that came too late meets a completed port here; commands that wait for the end succeed.
            return ExitCode.REFUSED if phase is PortPhase.COMPLETED else _OF_PHASE.get(phase, ExitCode.PORT_FAILED)
        case NoAnswer() | NotFixedInTime() | TimeoutError():
            return ExitCode.TIMED_OUT
        case BusDown() | Undeliverable():
            return ExitCode.BUS_UNREACHABLE
        case _:
            return ExitCode.CRASHED


def exit_code_of_refusals(refusals: Iterable[Refusal]) -> ExitCode:
    """What is not there differs from what a rule forbids."""
    return ExitCode.NOT_FOUND if any(refusal.code in _NOT_THERE for refusal in refusals) else ExitCode.REFUSED


def exit_code_of_outcome(outcome: Outcome) -> ExitCode:
    """The exit code of a watch, by how the port ended."""
    if outcome.outcome is PortPhase.REFUSED:
        return exit_code_of_refusals(outcome.refusals)
    return _OF_PHASE.get(outcome.outcome, ExitCode.CRASHED)
