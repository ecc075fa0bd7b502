"""What a dry run says of each provider, as one value."""

from __future__ import annotations

from uuid import UUID

import pytest

from shared.client.errors import PortEndedOtherwise, PortNotAllowed
from shared.client.vm_check import check_of, exit_code_of_shown, stopped
from shared.exit_codes import ExitCode
from shared.messages import Refusal
from shared.messages.service_change import PortPhase, PortPlanned
from tests.support.scripted_broker import PORT, QUOTE, REFUSAL, WEB


def reason(code: str) -> Refusal:
    return Refusal(code=code, rule="a rule", evidence="evidence")


def test_offers_come_before_refusals() -> None:
    """In the order of the plan; who declined follows by name."""
    plan = PortPlanned(port_id=PORT, quotes=(QUOTE,), declined={"gamma": (REFUSAL,), "delta": (REFUSAL,)})
    check = check_of(WEB, plan)
    assert [(each.provider, each.can_take) for each in check.providers] == [
        ("beta", True),
        ("delta", False),
        ("gamma", False),
    ]
    assert (check.possible, check.exit_code) == (True, ExitCode.OK)


@pytest.mark.parametrize(
    ("declined", "exit_code"),
    [
        ({"beta": (reason("no_answer"),)}, ExitCode.TIMED_OUT),
        ({"beta": (reason("no_answer"),), "gamma": (REFUSAL,)}, ExitCode.REFUSED),
        ({}, ExitCode.REFUSED),
    ],
)
def test_silence_alone_is_no_refusal(declined: dict[str, tuple[Refusal, ...]], exit_code: ExitCode) -> None:
    """Who has not answered may answer later; one that has refused has spoken."""
    assert check_of(WEB, PortPlanned(port_id=PORT, quotes=(), declined=declined)).exit_code is exit_code


def test_stopped_before_the_quotes() -> None:
    """By whom, and why; a dry run that failed says so, too."""
    refused = stopped(WEB, PortNotAllowed("donor.alpha", (reason("dues_open"),)))
    assert (refused.refused_by, refused.possible, refused.exit_code) == ("donor.alpha", False, ExitCode.REFUSED)
    failed = stopped(WEB, PortEndedOtherwise(UUID(int=1), PortPhase.FAILED, code="donor_silent", detail="no answer"))
    assert (failed.refused_by, failed.exit_code) == ("broker", ExitCode.TIMED_OUT)


def test_details_that_are_not_known() -> None:
    """Silence first: other reasons do not say why there are no details."""
    assert exit_code_of_shown((reason("dues_open"), reason("node_unreachable"))) is ExitCode.TIMED_OUT
    assert exit_code_of_shown((reason("vm_unreadable"),)) is ExitCode.REFUSED
