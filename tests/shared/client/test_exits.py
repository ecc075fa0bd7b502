"""Exit codes are what `shared.exit_codes` documents."""

from __future__ import annotations

from uuid import UUID

import pytest

from shared.bus import BusDown, Undeliverable
from shared.client.errors import (
    CancelNotPossible,
    NoAnswer,
    NotFixedInTime,
    NotUnderstood,
    PortEndedOtherwise,
    PortNotAllowed,
    QuestionFailed,
)
from shared.client.exits import exit_code_of, exit_code_of_outcome
from shared.client.limits import BadLimits
from shared.client.outcome import Outcome
from shared.client.resolve import Ambiguous, NotFound
from shared.client.units import BadValue
from shared.config import ConfigError
from shared.exit_codes import ExitCode
from shared.messages import Refusal
from shared.messages.service_change import PortPhase
from shared.parties import BROKER
from tests.support.scripted_broker import REFUSAL

PORT = UUID(int=1)


def refusal(code: str) -> Refusal:
    return Refusal(code=code, rule="a rule", evidence="a fact")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError(()), ExitCode.CONFIG),
        (BadValue("x", "y"), ExitCode.USAGE),
        (BadLimits("--seed needs --window"), ExitCode.USAGE),
        (Ambiguous("VM", "a", ()), ExitCode.USAGE),
        (NotFound("VM", "a"), ExitCode.NOT_FOUND),
        (QuestionFailed("not_found", "there is no port"), ExitCode.NOT_FOUND),
        (QuestionFailed("not_yours", "it is not yours"), ExitCode.NOT_FOUND),
        (QuestionFailed("too_many", "ask for fewer"), ExitCode.REFUSED),
        (CancelNotPossible("unknown_port", "there is none"), ExitCode.NOT_FOUND),
        (CancelNotPossible("too_late", "it is committed"), ExitCode.REFUSED),
        (PortNotAllowed("broker", (REFUSAL,)), ExitCode.REFUSED),
        (PortNotAllowed("broker", (refusal("recipient_unknown"),)), ExitCode.NOT_FOUND),
        (PortNotAllowed("broker", (refusal("vm_unknown"),)), ExitCode.NOT_FOUND),
        (PortNotAllowed("broker", (REFUSAL, refusal("not_owner"))), ExitCode.NOT_FOUND),
        (PortEndedOtherwise(PORT, PortPhase.FAILED, code="lost", detail=""), ExitCode.PORT_FAILED),
        (PortEndedOtherwise(PORT, PortPhase.CANCELLED, code="cancelled", detail=""), ExitCode.CANCELLED),
        (PortEndedOtherwise(PORT, PortPhase.COMPLETED, code="already_completed", detail=""), ExitCode.REFUSED),
        (NoAnswer("ListVms", 1), ExitCode.TIMED_OUT),
        (NotFixedInTime(PORT, 1), ExitCode.TIMED_OUT),
        (TimeoutError(), ExitCode.TIMED_OUT),
        (BusDown("away"), ExitCode.BUS_UNREACHABLE),
        (Undeliverable(BROKER, "no queue"), ExitCode.BUS_UNREACHABLE),
        (NotUnderstood("unknown_version", "version 9"), ExitCode.CRASHED),
        (ValueError("a defect"), ExitCode.CRASHED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_has_its_code(error: Exception, code: ExitCode) -> None:
    """A script can tell a wrong name from a rule, and a silent broker from RabbitMQ that is away."""
    assert exit_code_of(error) is code


@pytest.mark.parametrize(
    ("phase", "refusals", "code"),
    [
        (PortPhase.COMPLETED, (), ExitCode.OK),
        (PortPhase.PLANNED, (), ExitCode.OK),
        (PortPhase.FAILED, (), ExitCode.PORT_FAILED),
        (PortPhase.CANCELLED, (), ExitCode.CANCELLED),
        (PortPhase.REFUSED, (REFUSAL,), ExitCode.REFUSED),
        (PortPhase.REFUSED, (refusal("recipient_unknown"),), ExitCode.NOT_FOUND),
    ],
)
def test_each_end_of_a_watched_port_has_its_code(
    phase: PortPhase, refusals: tuple[Refusal, ...], code: ExitCode
) -> None:
    """A watch ends as the same command without it."""
    assert exit_code_of_outcome(Outcome(port_id=PORT, outcome=phase, refusals=refusals)) is code
