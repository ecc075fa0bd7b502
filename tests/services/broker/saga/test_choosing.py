"""From the request to the agreement."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from services.broker.saga import RecordEnd, Send, Verdict
from services.broker.saga.approving import begin_refused
from shared.messages import Refusal
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.base import MAX_TEXT
from shared.messages.costs import CostKind, CostLine, JoiningTerms, LeavingTerms
from shared.messages.porting import (
    PortingFixed,
    QuoteDeclined,
    QuoteOffered,
    QuoteRequested,
    ReservationRefused,
    ReservationRequested,
)
from shared.messages.service_change import CancelPort, PortPhase, PortPlanned, PortRefused
from shared.testing import make_lane_endpoint
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    BETA,
    GAMMA,
    LONG,
    NOW,
    PORT,
    Conversation,
    identity,
    quote,
    refusal,
    request,
    reserved,
)

P = PortPhase


class TestPartners:
    """A donor may restrict its VMs to its partners."""

    def test_only_partners_are_asked(self) -> None:
        """Of all candidates those that the donor names hear of the VM."""
        talk = Conversation.begin(request(recipient="best"), candidates=("beta", "gamma"))
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), partners=("gamma", "delta")))
        talk.expect(P.QUOTING, "recipient.gamma <- QuoteRequested")

    def test_no_partner_among_the_candidates_is_a_refusal(self) -> None:
        """The tenant reads which partners there are."""
        talk = Conversation.begin(request())
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), partners=("delta",)))
        assert talk.state.phase is P.REFUSED
        answer = talk.sent(PortRefused)
        assert [(found.code, "delta" in found.rule) for found in answer.refusals] == [("partner_not_allowed", True)]
        talk.expect(
            P.REFUSED,
            "tenant.acme <- PortRefused",
            "donor.alpha <- PortCancelled",
            "end: refused partner_not_allowed",
        )


class TestEjecting:
    """A medium is left behind only where there is one."""

    def test_a_drive_without_a_medium_is_a_refusal(self) -> None:
        """Before anybody is asked for a quote; the tenant reads which drives have one."""
        talk = Conversation.begin(request(eject=("sda",)))
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        assert talk.state.phase is P.REFUSED
        (found,) = talk.sent(PortRefused).refusals
        assert (found.code, found.evidence) == (
            "nothing_to_eject",
            "sda is no drive with a read-only medium; these are: none",
        )

    def test_all_of_nothing_is_no_refusal(self) -> None:
        """It says what is to stay, not that there is something."""
        talk = Conversation.begin(request(eject=("all",)))
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        talk.expect(P.QUOTING, "recipient.beta <- QuoteRequested")


class TestChoosing:
    """Refusals, quotes and reservations."""

    def test_donor_rejects(self) -> None:
        """The donor's refusals reach the tenant as they are."""
        talk = Conversation.begin(request())
        talk.hear(ALPHA, DonorRejected(port_id=PORT, refusals=(refusal("dues_open"),)))
        talk.expect(P.REFUSED, "tenant.acme <- PortRefused", "end: refused dues_open")
        refused = talk.sent(PortRefused)
        assert refused.refused_by == "donor.alpha"

    def test_donor_silent(self) -> None:
        """Without the donor's answer the port fails, and the donor is told to forget it."""
        talk = Conversation.begin(request()).deadline()
        talk.expect(P.FAILED, "tenant.acme <- PortFailed", "donor.alpha <- PortFailed", "end: failed donor_silent")

    @pytest.mark.parametrize("fault", ["other vm", "digest"])
    def test_donor_describes_something_else(self, fault: str) -> None:
        """A bundle of another VM, or one that does not fit its own digest, ends the port."""
        bundle = (
            identity(PORT) if fault == "other vm" else identity().model_copy(update={"domain_xml_sha256": "0" * 64})
        )
        talk = Conversation.begin(request()).hear(ALPHA, DonorApproved(port_id=PORT, identity=bundle))
        talk.expect(P.FAILED, "tenant.acme <- PortFailed", "donor.alpha <- PortFailed", "end: failed identity_mismatch")

    def test_only_recipient_declines(self) -> None:
        """The named recipient's own reasons refuse the port, in its name."""
        talk = self._quoting("beta")
        talk.hear(BETA, QuoteDeclined(port_id=PORT, refusals=(refusal(),)))
        talk.expect(
            P.REFUSED,
            "tenant.acme <- PortRefused",
            "donor.alpha <- PortCancelled",
            "recipient.beta <- ReleaseReservation",
            "end: refused no_capacity",
        )
        refused = talk.sent(PortRefused)
        assert refused.refused_by == "recipient.beta"

    def test_offer_above_the_limit_is_refused_by_the_broker(self) -> None:
        """That an offer breaks the tenant's limit is the broker's finding."""
        talk = Conversation.begin(request(max_price_per_month="5.00"))
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote(price="9.00")))
        refused = talk.sent(PortRefused)
        assert (refused.refused_by, refused.refusals[0].code) == ("broker", "too_expensive")

    def test_best_of_two(self) -> None:
        """Once all have answered, the cheapest acceptable offer is chosen; the agreement releases the other one."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="9.00"))).expect(P.QUOTING)
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma", price="8.00")))
        talk.expect(P.RESERVING, "recipient.gamma <- ReservationRequested")
        talk.hear(GAMMA, reserved("gamma"))
        talk.expect(
            P.PREPARING,
            "tenant.acme <- PortingFixed",
            "donor.alpha <- PortingFixed",
            "recipient.gamma <- PortingFixed",
            "recipient.beta <- ReleaseReservation",
            "open lanes",
        )
        assert talk.state.released == ("beta",)

    def test_a_higher_price_can_be_the_best(self) -> None:
        """All costs count: what the recipient is asked to reserve is the offer as it was made, without our costs."""
        talk = self._quoting("best", ("beta", "gamma"))
        fee = JoiningTerms(fee=Decimal("50.00"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="8.50", joining=fee)))
        offer = quote("gamma", price="9.00")
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=offer))
        talk.expect(P.RESERVING, "recipient.gamma <- ReservationRequested")
        assert talk.sent(ReservationRequested).quote == offer
        assert talk.state.chosen is not None
        assert talk.state.chosen.costs is not None
        assert talk.last is not None
        assert "beta costs" in talk.last.note
        assert "joining fee +50.00" in talk.last.note

    def test_a_plan_says_why_each_other_one_lost(self) -> None:
        """With the donor's terms in every offer's costs."""
        talk = Conversation.begin(request(recipient="best", dry_run=True), candidates=("beta", "gamma"))
        terms = LeavingTerms(fee=Decimal("3.00"), price_per_month=Decimal("10.00"))
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), terms=terms))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="9.00")))
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma", price="8.00")))
        planned = talk.sent(PortPlanned)
        assert [offer.provider for offer in planned.quotes] == ["gamma", "beta"]
        assert [(lost.provider, lost.against) for lost in planned.lost] == [("beta", "gamma")]
        costs = planned.quotes[0].costs
        assert costs is not None
        assert (costs.saves_per_month, costs.line(CostKind.LEAVING_FEE)) == (
            Decimal("2.00"),
            CostLine(kind=CostKind.LEAVING_FEE, amount=Decimal("3.00"), paid_to="alpha"),
        )

    def test_the_broker_asks_for_a_currency(self) -> None:
        """Without a rate of exchange there is no best offer of two currencies: nothing is chosen by their names."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", currency="EUR")))
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma", currency="USD")))
        refused = talk.sent(PortRefused)
        assert (refused.refused_by, [each.code for each in refused.refusals]) == ("broker", ["currency_needed"])

    def test_next_best_after_refused_reservation(self) -> None:
        """When the platform check refuses, the next best offer is tried with the whole time of the phase."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="7.00")))
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma", price="8.00")))
        talk.pass_time(timedelta(seconds=10)).hear(BETA, ReservationRefused(port_id=PORT, refusals=(refusal(),)))
        talk.expect(P.RESERVING, "recipient.beta <- ReleaseReservation", "recipient.gamma <- ReservationRequested")
        assert talk.state.deadline == talk.now + talk.timing.reserving
        assert talk.state.released == ("beta",)

    def test_silent_reservation_then_no_offer_left(self) -> None:
        """A recipient that does not answer is released; with no offer left the port is refused, with all reasons."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta")))
        talk.hear(GAMMA, QuoteDeclined(port_id=PORT, refusals=(refusal("no_bridge"),)))
        talk.deadline()
        refused = talk.sent(PortRefused)
        assert [each.code for each in refused.refusals] == ["no_offer", "no_answer", "no_bridge"]
        assert refused.refusals[1].evidence == "beta: beta did not answer"

    def test_who_is_late_has_declined(self) -> None:
        """At the deadline the offers that came are chosen from."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta"))).deadline()
        talk.expect(P.RESERVING, "recipient.beta <- ReservationRequested")
        (reason,) = talk.state.declined["gamma"]
        assert (reason.code, reason.evidence) == ("no_answer", "gamma did not answer")

    def test_late_reservation_is_released(self) -> None:
        """A reservation that comes after the choice went elsewhere does not hold capacity."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="7.00")))
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma", price="8.00"))).deadline()
        talk.hear(BETA, reserved("beta")).expect(P.RESERVING, "recipient.beta <- ReleaseReservation")
        talk.hear(GAMMA, reserved("gamma"))
        assert talk.state.released == ("beta",)
        before = talk.state
        talk.hear(BETA, reserved("beta")).expect(before.phase, "recipient.beta <- ReleaseReservation")
        talk.hear(GAMMA, reserved("gamma")).expect(before.phase)
        assert talk.state == before

    def test_reservation_that_comes_after_the_end(self) -> None:
        """The recipient was chosen, and nothing was agreed."""
        talk = self._quoting("beta").hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
        talk.hear(ACME, CancelPort(port_id=PORT))
        talk.expect(
            P.CANCELLED,
            "tenant.acme <- PortCancelled",
            "donor.alpha <- PortCancelled",
            "recipient.beta <- ReleaseReservation",
            "end: cancelled cancelled",
        )
        assert talk.state.released == ("beta",)
        talk.hear(BETA, reserved())
        talk.expect(P.CANCELLED, "recipient.beta <- ReleaseReservation")

    def test_expired_reservation(self) -> None:
        """A reservation that is over when it arrives is as good as none."""
        talk = self._quoting("beta").hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
        talk.hear(BETA, reserved(reserved_until=NOW))
        assert talk.state.phase is P.REFUSED

    def test_offer_in_the_name_of_another(self) -> None:
        """A provider offers for itself only."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("gamma", price="0.01"))).expect(P.QUOTING)
        assert talk.state.quotes == ()

    def test_dry_run(self) -> None:
        """A dry run ends with all offers, best first, and nothing is reserved."""
        talk = Conversation.begin(request("best", dry_run=True), ("beta", "gamma"))
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma", price="3.00")))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="2.00")))
        talk.expect(
            P.PLANNED,
            "tenant.acme <- PortPlanned",
            "donor.alpha <- PortCancelled",
            "recipient.beta <- ReleaseReservation",
            "recipient.gamma <- ReleaseReservation",
            "end: planned planned",
        )
        planned = talk.sent(PortPlanned)
        assert [offer.provider for offer in planned.quotes] == ["beta", "gamma"]

    @staticmethod
    def _quoting(to: str, candidates: tuple[str, ...] = ("beta",)) -> Conversation:
        return Conversation.begin(request(to), candidates).hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))


class TestAgreement:
    """What the agreement says, and who holds it."""

    def test_agreement_has_what_was_promised(self) -> None:
        """The agreement holds the quote's promises, the next epoch, both nodes and the recipient's domain XML."""
        talk = Conversation.begin(request(max_downtime_ms=700)).fixed()
        fixed = talk.state.agreement
        assert fixed is not None
        assert (fixed.donor_node, fixed.recipient_node, fixed.epoch) == ("alpha-1", "beta-1", 2)
        assert (fixed.promised_total_s, fixed.promised_downtime_ms) == (60.0, 500)
        assert fixed.deadline == NOW + talk.timing.transfer

    @pytest.mark.parametrize(
        ("donor_direct", "recipient_direct", "routes"),
        [
            (False, False, ("relay",)),
            (True, False, ("direct", "relay")),
            (False, True, ("direct", "relay")),
        ],
    )
    def test_routes(self, donor_direct: bool, recipient_direct: bool, routes: tuple[str, ...]) -> None:  # noqa: FBT001  # a row's values
        """Directly where one node can be reached so, which is tried first; the relay always."""
        ends = [
            make_lane_endpoint(direct=("192.0.2.1:1",) if direct else ()) for direct in (donor_direct, recipient_direct)
        ]
        talk = Conversation.begin(request())
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity().model_copy(update={"lane": ends[0]})))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
        talk.hear(BETA, reserved().model_copy(update={"lane": ends[1]}))
        assert talk.state.agreement is not None
        assert talk.state.agreement.routes == routes

    def test_everybody_holds_the_same_agreement(self) -> None:
        """PortingFixed is one value for tenant, donor and recipient."""
        talk = Conversation.begin(request()).fixed()
        assert talk.last is not None
        fixed = {
            effect.message.agreement.model_dump_json()
            for effect in talk.last.effects
            if isinstance(effect, Send) and isinstance(effect.message, PortingFixed)
        }
        assert len(fixed) == 1


def test_long_reasons_of_providers() -> None:
    """Each provider's evidence gets its name in front; the refusal is clipped to what can be saved and sent."""
    long = Refusal(code="no_capacity", rule="there is room", evidence=LONG)
    talk = Conversation.begin(request("best"), ("beta", "gamma"))
    talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
    for party in (BETA, GAMMA):
        talk.hear(party, QuoteDeclined(port_id=PORT, refusals=(long,)))
    refused = talk.sent(PortRefused)
    assert [len(each.evidence) for each in refused.refusals[1:]] == [MAX_TEXT, MAX_TEXT]
    assert talk.state.refusals == refused.refusals


def test_only_partners_are_waited_for() -> None:
    """A donor that ports to its partners only: nobody waits for the answer of a provider that was never asked."""
    talk = Conversation.begin(request("best"), candidates=("beta", "gamma"))
    talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity(), partners=("beta",)))
    talk.expect(P.QUOTING, "recipient.beta <- QuoteRequested")
    talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote())).expect(
        P.RESERVING, "recipient.beta <- ReservationRequested"
    )
    talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma"))).expect(P.RESERVING)
    assert talk.last is not None
    assert talk.last.verdict is Verdict.REFUSED


def test_a_request_that_the_brokers_rules_refuse_ends_at_once() -> None:
    """The VM stays the donor's; the donor was never asked, so it is not told."""
    refused = begin_refused(
        request(), tenant_name="acme", vm_name="web", epoch=0, refusals=(refusal("not_yours"),), now=NOW
    )
    (answer, record) = refused.effects
    assert answer == Send(ACME, PortRefused(port_id=PORT, refused_by="broker", refusals=(refusal("not_yours"),)))
    assert isinstance(record, RecordEnd)
    assert (record.outcome, record.code) == (P.REFUSED, "not_yours")
    state = refused.state
    assert (state.phase, state.owner, state.epoch, state.candidates) == (P.REFUSED, "alpha", 1, ())
    assert (state.tenant, state.vm_name, state.requested_at, state.phase_since) == ("acme", "web", NOW, NOW)
    assert state.request == request()
    later = begin_refused(request(), tenant_name="acme", vm_name="web", epoch=4, refusals=(), now=NOW)
    assert later.state.epoch == 4


def test_a_named_recipient_that_nobody_could_ask() -> None:
    """Without any reason of its own it is the broker that refuses."""
    talk = Conversation.begin(request("delta"), candidates=("beta",))
    talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
    talk.hear(BETA, QuoteDeclined(port_id=PORT, refusals=(refusal(),)))
    assert talk.state.phase is P.REFUSED
    assert talk.sent(PortRefused).refused_by == "broker"


@pytest.mark.parametrize(("asked", "named"), [("beta", "beta"), ("best", None)])
def test_the_donor_is_asked_first(asked: str, named: str | None) -> None:
    """It reads who is to get the VM, if the tenant has named one, and which media stay with it."""
    talk = Conversation.begin(request(asked, eject=("sda",)))
    assert talk.sent(ApprovalRequested).recipient == named
    assert talk.sent(ApprovalRequested).eject == ("sda",)
    assert talk.state.deadline == NOW + talk.timing.approval


def test_a_question_is_useless_after_its_phase() -> None:
    """To the donor, for a quote, for a reservation: whoever was away must not answer what nobody waits for."""
    talk = Conversation.begin(request())
    for kind, sender, answer in (
        (ApprovalRequested, ALPHA, DonorApproved(port_id=PORT, identity=identity())),
        (QuoteRequested, BETA, QuoteOffered(port_id=PORT, quote=quote())),
        (ReservationRequested, BETA, reserved()),
    ):
        assert talk.last is not None
        question = talk.last.effects[-1]
        assert isinstance(question, Send)
        assert isinstance(question.message, kind)
        assert (question.perishable, question.deadline) == (True, talk.state.deadline)
        if isinstance(question.message, QuoteRequested):
            assert question.message.answer_by == talk.state.deadline
        talk.hear(sender, answer)
