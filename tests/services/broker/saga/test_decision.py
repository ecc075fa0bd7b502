"""What a handler gets and returns."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.broker.saga import Alarm, Decision, RecordEnd, SagaBug, Timing, Verdict
from shared.messages.service_change import PortPhase
from tests.support.broker_samples import ALPHA_NODE, BETA, BETA_NODE, Conversation, request

STORED = (
    "identity",
    "chosen",
    "agreement",
    "recipient",
    "recipient_party",
    "donor_node",
    "recipient_node",
    "lane_ends",
    "moving_since",
    "arrived_at",
    "failure",
)


@pytest.mark.parametrize("name", STORED)
def test_missing_value_is_a_bug(name: str) -> None:
    """A handler that asks for what no earlier phase has stored is wrong, and the error names the phase."""
    with pytest.raises(SagaBug, match="a port in approval has no"):
        getattr(Conversation.begin(request()).moment, name)


def test_stored_values() -> None:
    """Later phases find what earlier ones have stored."""
    at = Conversation.begin(request()).completed().moment
    assert (at.recipient, at.recipient_party, at.recipient_node, at.donor_node) == (
        "beta",
        BETA,
        BETA_NODE,
        ALPHA_NODE,
    )
    assert (at.agreement, at.identity, at.chosen) == (at.state.agreement, at.state.identity, at.state.chosen)
    assert (at.lane_ends.donor_node, at.lane_ends.recipient_node) == (ALPHA_NODE, BETA_NODE)
    assert at.moving_since <= at.arrived_at


def test_changed_moment_keeps_time() -> None:
    """`with_` changes the state only."""
    at = Conversation.begin(request()).moment
    changed = at.with_(retries=2)
    assert (changed.state.retries, changed.now, changed.timing) == (2, at.now, at.timing)


def test_entering_a_phase_resets_its_waits() -> None:
    """A new phase begins now, without the wake-up and the retries of the one before."""
    at = Conversation.begin(request()).moment
    at = at.with_(retries=2, wake_at=at.now)
    assert at.go(PortPhase.QUOTING).rearm is False
    entered = at.go(PortPhase.QUOTING).state
    assert (entered.phase, entered.phase_since, entered.wake_at, entered.retries) == ("quoting", at.now, None, 0)


def test_ignored_event_changes_nothing() -> None:
    """The record gets a reason, the state stays."""
    at = Conversation.begin(request()).moment
    assert at.ignore("why") == Decision(at.state, (), "why", Verdict.IGNORED)


def test_effects_before_others() -> None:
    """`after` keeps everything of a decision but its note."""
    at = Conversation.begin(request()).moment
    end, alarm = RecordEnd(PortPhase.FAILED, "code", "detail"), Alarm("code", "detail")
    decision = at.stay(end, note="first", rearm=True).after(alarm, note="second")
    assert decision == Decision(at.state, (alarm, end), "second", Verdict.HANDLED, rearm=True)


def test_pauses_double_up_to_the_longest() -> None:
    """The pause grows, but never beyond its limit, however often a question was asked."""
    timing = Timing(first_retry=timedelta(seconds=2), longest_retry=timedelta(seconds=60))
    assert [timing.retry(count).total_seconds() for count in (0, 1, 2, 5, 10_000)] == [2, 4, 8, 60, 60]
