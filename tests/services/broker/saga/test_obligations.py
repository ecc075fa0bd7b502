"""Rules while a port goes on: duties with their time, and what is known later."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from services.broker.saga import Moment, RuleBroken, RuleDue, Verdict, step
from services.broker.saga.obligations import before, ended, judge, split
from shared.messages import Refusal
from shared.messages.approval import DonorApproved
from shared.messages.porting import (
    DisconnectVm,
    DisksErased,
    InboundFinished,
    InboundOpened,
    OutboundStarted,
    QuoteOffered,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.rule_facts import RuleOutcome
from shared.messages.service_change import CancelPort, PortPhase
from tests.services.broker.saga.test_approving import PLAIN, asked, outcome, rejected
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    NOW,
    PORT,
    Conversation,
    guest_paused,
    identity,
    outbound_finished,
    quote,
    refusal,
    request_switchover,
    reserved,
)

P = PortPhase
DAY = timedelta(days=1)


def approved(**regions: str) -> Conversation:
    return asked(**regions).hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=PLAIN))


def fixed(**regions: str) -> Conversation:
    """A port with its agreement."""
    talk = approved(**regions).hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
    return talk.hear(BETA, reserved())


def due(talk: Conversation) -> Conversation:
    """The time of the next duty has come."""
    assert talk.state.rule_due_at is not None
    talk.now = talk.state.rule_due_at
    talk.last = step(talk.state, RuleDue(), talk.now, talk.timing)
    talk.state = talk.last.state
    return talk


class TestDuties:
    """What must be done by a time."""

    def test_a_port_that_is_late_calls_an_operator(self) -> None:
        """In Britain after one working day; once."""
        talk = fixed(donor="UK")
        due(talk)
        broken = talk.effect(RuleBroken)
        assert (broken.regime, broken.rule, broken.how) == ("uk-ofcom-c7", "one_day", "overdue")
        assert talk.state.phase is P.PREPARING
        again = step(talk.state, RuleDue(), talk.now + timedelta(seconds=2), talk.timing)
        assert again.verdict is Verdict.IGNORED

    def test_at_the_very_end_of_its_time_nothing_is_late(self) -> None:
        """The timer comes a second later."""
        talk = fixed(donor="UK")
        assert talk.state.rule_due_at is not None
        last = talk.state.rule_due_at - timedelta(seconds=1)
        assert step(talk.state, RuleDue(), last, talk.timing).verdict is Verdict.IGNORED
        assert judge(Moment(talk.state, last, talk.timing))[0].state.rule_due_at == talk.state.rule_due_at

    @pytest.mark.parametrize(
        ("ported_at", "how"), [(None, ["overdue"]), (NOW + 100 * DAY, []), (NOW + 300 * DAY, ["overdue"])]
    )
    def test_a_switch_that_was_not_possible_must_become_so(self, ported_at: datetime | None, how: list[str]) -> None:
        """Within seven months, by another port."""
        talk = asked(tenant="EU").hear(ALPHA, rejected(refusal("node_unreachable")))
        assert talk.state.phase is P.REFUSED
        talk.now = talk.state.rule_due_at or NOW
        talk.last = step(talk.state, RuleDue(ported_at), talk.now, talk.timing)
        found = [effect.how for effect in talk.last.effects if isinstance(effect, RuleBroken)]
        assert (found, talk.last.state.rule_due_at) == (how, None)

    def test_a_timer_that_comes_too_early_changes_nothing(self) -> None:
        """It is set again."""
        talk = fixed(donor="UK")
        assert step(talk.state, RuleDue(), NOW, talk.timing).verdict is Verdict.IGNORED

    def test_a_port_without_rules_has_no_duties(self) -> None:
        """Ports of an earlier release."""
        talk = Conversation.begin(asked().state.request)
        assert talk.state.rule_due_at is None
        assert judge(talk.moment) == (talk.moment, *judge(talk.moment)[1:])
        assert before(step(talk.state, RuleDue(), NOW, talk.timing), ()).effects == ()

    def test_an_end_without_success_leaves_nothing_due(self) -> None:
        """And says that the tenant has used its right to withdraw."""
        talk = fixed(donor="IN").hear(ACME, CancelPort(port_id=PORT))
        after = ended(talk.moment, P.CANCELLED).state.rules
        [withdrawal] = [each for each in after.applied if each.rule == "withdrawal"]
        assert "used at" in withdrawal.evidence
        assert after.due_at is None


def moved(talk: Conversation) -> Conversation:
    """Up to the order to disconnect the VM."""
    talk.lanes_opened().hear(BETA, InboundOpened(port_id=PORT)).hear(ALPHA, OutboundStarted(port_id=PORT))
    talk.hear(ALPHA_NODE, guest_paused()).hear(BETA_NODE, request_switchover())
    talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2)).hear(ALPHA, outbound_finished())
    return talk.hear(BETA, VmProvisioned(port_id=PORT))


def completed(talk: Conversation) -> Conversation:
    """To the good end."""
    return moved(talk).hear(ALPHA, VmDisconnected(port_id=PORT))


class TestRetrieval:
    """The time in which the tenant may fetch what it misses, and the erasure after it."""

    def test_the_donor_is_told_until_when_it_keeps_the_disks(self) -> None:
        """30 days from the arrival, in the Union; nothing where no rule says so."""
        talk = moved(fixed(tenant="EU"))
        arrived_at = talk.state.arrived_at
        assert arrived_at is not None
        assert talk.sent(DisconnectVm).keep_until == arrived_at + 30 * DAY
        assert moved(fixed()).sent(DisconnectVm).keep_until is None

    @pytest.mark.parametrize(
        ("days", "retrieval", "erasure"),
        [
            (29, RuleOutcome.OVERDUE, RuleOutcome.MET),
            (31, RuleOutcome.MET, RuleOutcome.MET),
            (61, RuleOutcome.MET, RuleOutcome.OVERDUE),
        ],
    )
    def test_when_the_disks_are_erased(self, days: int, retrieval: RuleOutcome, erasure: RuleOutcome) -> None:
        """Too early, in time, too late."""
        talk = completed(fixed(tenant="EU"))
        assert talk.state.phase is P.COMPLETED
        talk.now += days * DAY
        talk.hear(ALPHA, DisksErased(port_id=PORT, erased_bytes=1))
        assert (outcome(talk, "retrieval"), outcome(talk, "erasure")) == (retrieval, erasure)

    def test_disks_that_are_not_erased_call_an_operator(self) -> None:
        """After the port's end, too."""
        talk = completed(fixed(tenant="EU"))
        due(talk)
        assert outcome(talk, "retrieval") is RuleOutcome.MET
        due(talk)
        assert talk.effect(RuleBroken).rule == "erasure"


def test_refusals_are_split_by_what_is_void() -> None:
    """Each as it was said."""
    at, verdict, _ = judge(asked().moment, refused_on=("dues_open",), refused_without_reason=True)
    said = (Refusal(code="dues_open", rule="-", evidence=""), Refusal(code="vm_blocked", rule="-", evidence=""))
    assert split(said, verdict) == (said[1:], said[:1])
    assert at.state.rules.void
