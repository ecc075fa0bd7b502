"""The request and the donor's answer, judged by the rules that bind the port."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from services.broker.saga import RuleBroken
from services.broker.saga.approving import begin_refused
from shared.messages import Refusal
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.porting import QuoteOffered
from shared.messages.rule_facts import Charge, ChargeKind, DonorFacts, RuleOutcome
from shared.messages.rules import DemandRefused
from shared.messages.service_change import PortPhase, PortPlanned, PortRefused
from tests.support.broker_samples import ALPHA, BETA, NOW, PORT, Conversation, identity, quote, refusal, request
from tests.support.port_rules import rules

P = PortPhase
PLAIN = DonorFacts(contract_start=date(2020, 1, 1))


def asked(**regions: str) -> Conversation:
    """A port that is asked for."""
    return Conversation.begin(request(), rules=rules(**regions))


def rejected(*refusals: Refusal, facts: DonorFacts | None = PLAIN) -> DonorRejected:
    return DonorRejected(port_id=PORT, refusals=refusals, facts=facts)


def outcome(talk: Conversation, rule: str) -> RuleOutcome:
    """What came of one rule."""
    [found] = [each.outcome for each in talk.state.rules.applied if each.rule == rule]
    return found


def test_a_refused_request_binds_nobody() -> None:
    """The port has ended before a rule was asked."""
    decision = begin_refused(
        request(), tenant_name="acme", vm_name="web", epoch=1, refusals=(refusal("not_owner"),), now=NOW
    )
    assert (decision.state.phase, decision.state.rules.applied) == (P.REFUSED, ())


class TestConditions:
    """What the donor states may forbid the port though the donor itself does not."""

    def test_the_tenant_reads_clause_and_evidence(self) -> None:
        """A donor in India lets a VM go after 10 days; the regulation asks for 90."""
        talk = asked(donor="IN")
        start = NOW.date() - timedelta(days=10)
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=DonorFacts(contract_start=start)))
        talk.expect(
            P.REFUSED, "tenant.acme <- PortRefused", "donor.alpha <- PortCancelled", "end: refused minimum_stay"
        )
        [found] = talk.sent(PortRefused).refusals
        assert found.clause == "in-trai-mnp, query response (b)"
        assert f"contract start {start}" in found.evidence

    def test_a_port_that_no_rule_forbids_goes_on(self) -> None:
        """With every rule in its record."""
        talk = asked(donor="IN")
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=PLAIN))
        talk.expect(P.QUOTING, "recipient.beta <- QuoteRequested")
        assert outcome(talk, "stay") is RuleOutcome.MET
        assert all(each.clause and each.evidence and each.facts_sha256 for each in talk.state.rules.applied)

    def test_a_donor_that_states_nothing(self) -> None:
        """An agent of an earlier release: what is not known forbids nothing."""
        talk = asked(donor="IN").hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        talk.expect(P.QUOTING, "recipient.beta <- QuoteRequested")
        assert outcome(talk, "stay") is RuleOutcome.UNKNOWN


class TestUnlawfulDemands:
    """They are refused to the donor, by clause, and do not stop the port."""

    def test_a_stay_longer_than_the_notice(self) -> None:
        """The donor is told, and asked again without it."""
        talk = asked(tenant="EU-DE")
        stay = DonorFacts(contract_start=NOW.date(), minimum_stay_days=365)
        talk.hear(ALPHA, rejected(refusal("minimum_stay"), facts=stay))
        talk.expect(P.APPROVAL, "donor.alpha <- DemandRefused", "unlawful: notice", "donor.alpha <- ApprovalRequested")
        told = talk.sent(DemandRefused)
        assert told.void == ("minimum_stay",)
        assert told.refusals[0].clause == "eu-data-act, Art. 25(2)(d)"
        assert talk.sent(ApprovalRequested).void == ("minimum_stay",)
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=stay))
        talk.expect(P.QUOTING, "recipient.beta <- QuoteRequested")
        assert outcome(talk, "notice") is RuleOutcome.UNLAWFUL

    def test_a_stay_within_the_notice_is_lawful(self) -> None:
        """The tenant waits for it."""
        stay = DonorFacts(contract_start=NOW.date(), minimum_stay_days=30)
        talk = asked(tenant="EU").hear(ALPHA, rejected(refusal("minimum_stay"), facts=stay))
        talk.expect(P.REFUSED, "tenant.acme <- PortRefused", "end: refused minimum_stay")

    def test_a_field_outside_the_closed_list(self) -> None:
        """One that is on it may be demanded; then that alone refuses the port."""
        facts = DonorFacts(demands=("account_number", "mothers_name"))
        other = Refusal(code="field_missing", rule="tell it", evidence="mothers_name: not told")
        lawful = Refusal(code="field_missing", rule="tell it", evidence="account_number: not told")
        talk = asked(donor="US").hear(ALPHA, rejected(other, facts=facts))
        talk.expect(P.APPROVAL, "donor.alpha <- DemandRefused", "unlawful: fields", "donor.alpha <- ApprovalRequested")
        assert talk.sent(ApprovalRequested).void == ("field_missing:mothers_name",)
        talk = asked(donor="US").hear(ALPHA, rejected(other, lawful, facts=facts))
        assert talk.sent(PortRefused).refusals == (lawful,)
        assert talk.sent(DemandRefused).void == ("field_missing:mothers_name",)

    def test_charges_above_cost_and_after_the_ban(self) -> None:
        """They are struck; what is lawful stays for the tenant to pay."""
        costly = Charge(kind=ChargeKind.SWITCHING, amount="25.00", currency="EUR", direct_cost="20.00")
        cheap = Charge(kind=ChargeKind.EGRESS, amount="3.00", currency="EUR", direct_cost="3.00")
        facts = PLAIN.model_copy(update={"charges": (costly, cheap)})
        talk = asked(tenant="EU").hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=facts))
        talk.expect(
            P.QUOTING, "donor.alpha <- DemandRefused", "unlawful: charge_cap", "recipient.beta <- QuoteRequested"
        )
        assert talk.state.rules.charges == (cheap,)
        quoted = Conversation.begin(request(dry_run=True), rules=rules(tenant="EU"))
        quoted.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=facts))
        quoted.hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
        assert quoted.sent(PortPlanned).charges == (cheap,)
        late = asked(tenant="EU")
        late.now = NOW.replace(year=2028)
        late.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=facts))
        assert {each.clause for each in late.sent(DemandRefused).refusals} == {"eu-data-act, Art. 29(1)"}
        assert late.state.rules.charges == ()

    def test_partners(self) -> None:
        """In the Union the tenant chooses where its VM goes; the donor's list of partners is void."""
        approved = DonorApproved(port_id=PORT, identity=identity(), partners=("gamma",), facts=PLAIN)
        talk = asked(tenant="EU").hear(ALPHA, approved)
        assert talk.state.phase is P.QUOTING
        assert talk.sent(DemandRefused).void == ("partner_not_allowed",)
        assert asked().hear(ALPHA, approved).state.phase is P.REFUSED

    def test_a_ground_that_is_not_listed(self) -> None:
        """In India a contract that has ended is no ground."""
        talk = asked(donor="IN").hear(ALPHA, rejected(refusal("contract_ended")))
        assert talk.state.phase is P.APPROVAL
        assert talk.sent(DemandRefused).refusals[0].clause == "in-trai-mnp, query response (a) to (f)"

    def test_a_refusal_without_a_reason(self) -> None:
        """By the broker's own terms, too."""
        talk = asked().hear(ALPHA, rejected())
        talk.expect(P.APPROVAL, "donor.alpha <- DemandRefused", "unlawful: reason", "donor.alpha <- ApprovalRequested")

    def test_a_donor_that_insists(self) -> None:
        """It is asked once more only; then the port is refused, and an operator called."""
        stay = DonorFacts(contract_start=NOW.date(), minimum_stay_days=365)
        talk = asked(tenant="EU").hear(ALPHA, rejected(refusal("minimum_stay"), facts=stay))
        talk.hear(ALPHA, rejected(refusal("minimum_stay"), facts=stay))
        talk.expect(P.REFUSED, "alarm: unlawful_refusal", "tenant.acme <- PortRefused", "end: refused minimum_stay")

    def test_technical_reasons_are_never_void(self) -> None:
        """A node that is away cannot be commanded; the law gives the donor seven months."""
        talk = asked(tenant="EU").hear(ALPHA, rejected(refusal("node_unreachable")))
        talk.expect(P.REFUSED, "tenant.acme <- PortRefused", "end: refused node_unreachable")
        assert outcome(talk, "unfeasible") is RuleOutcome.DUE


class TestLateRefusals:
    """A refusal after the approval, or after the approval was due."""

    def test_after_the_approval(self) -> None:
        """Refused to the donor by clause; the port goes on."""
        talk = asked(donor="IN").hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=PLAIN))
        talk.hear(ALPHA, rejected(refusal("dues_open")))
        talk.expect(P.QUOTING, "donor.alpha <- DemandRefused", "unlawful: no_late_refusal")
        assert talk.effect(RuleBroken).how == "unlawful"
        talk.hear(ALPHA, rejected(refusal("dues_open"))).expect(P.QUOTING)
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote())).expect(
            P.RESERVING, "recipient.beta <- ReservationRequested"
        )

    @pytest.mark.parametrize(("late_s", "phase"), [(-1, P.REFUSED), (0, P.REFUSED), (1, P.APPROVAL)])
    def test_after_it_was_due(self, late_s: int, phase: PortPhase) -> None:
        """In Britain two hours after the request; a second later the refusal is void, and the donor is asked again."""
        talk = asked(donor="UK")
        talk.now = NOW + timedelta(hours=2, seconds=late_s)
        talk.hear(ALPHA, rejected(refusal("dues_open")))
        assert talk.state.phase is phase

    def test_after_the_port_has_failed(self) -> None:
        """The donor that was silent is told that its word comes too late."""
        talk = asked(donor="UK").deadline()
        talk.now = NOW + timedelta(hours=3)
        talk.hear(ALPHA, rejected(refusal("dues_open")))
        talk.expect(P.FAILED, "donor.alpha <- DemandRefused", "unlawful: answer")
