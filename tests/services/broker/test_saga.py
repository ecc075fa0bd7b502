"""The saga's conversations, as scripts: who says what, and what comes of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import services.broker
from services.broker.saga import TABLE, DeadlinePassed, SagaState, Send, Verdict, step
from services.broker.saga.diagram import markdown, mermaid
from services.broker.saga.state import ENDS
from services.broker.saga.table import SPEAKERS
from shared.messages import MESSAGE_TYPES, PortMessage
from shared.messages.approval import DonorApproved, DonorRejected
from shared.messages.porting import (
    CompletionFailed,
    DisksErased,
    InboundFinished,
    InboundOpened,
    OutboundStarted,
    PortingFixed,
    QuerySwitchover,
    QuoteDeclined,
    QuoteOffered,
    ReservationRefused,
    Side,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import (
    CancelPort,
    CancelRefused,
    PortCompleted,
    PortFailed,
    PortPhase,
    PortPlanned,
    PortProgressed,
    PortRefused,
    PortRequested,
)
from shared.parties import Role, donor, node, recipient, tenant
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    GAMMA,
    NOW,
    PORT,
    VM,
    Conversation,
    identity,
    outbound_finished,
    quote,
    refusal,
    request,
    request_switchover,
    reserved,
    transfer_aborted,
    transfer_failed,
)

P = PortPhase


def sent(talk: Conversation, kind: type) -> object:
    """The one message of this type among the last effects."""
    assert talk.last is not None
    found = [
        effect.message for effect in talk.last.effects if isinstance(effect, Send) and type(effect.message) is kind
    ]
    assert len(found) == 1
    return found[0]


class TestPartners:
    """A donor may let its VMs go only to its partners."""

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
        answer = sent(talk, PortRefused)
        assert isinstance(answer, PortRefused)
        assert [(found.code, "delta" in found.rule) for found in answer.refusals] == [("partner_not_allowed", True)]


class TestGoodPath:
    """A port from request to completion."""

    def test_whole_conversation(self) -> None:
        """Each party is asked in its turn, the epoch is committed once, and everybody hears of the end."""
        talk = Conversation.begin(request())
        talk.expect(P.APPROVAL, "tenant.acme <- PortAccepted", "donor.alpha <- ApprovalRequested")
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        talk.expect(P.QUOTING, "recipient.beta <- QuoteRequested")
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
        talk.expect(P.RESERVING, "recipient.beta <- ReservationRequested")
        talk.hear(BETA, reserved())
        talk.expect(
            P.PREPARING,
            "tenant.acme <- PortingFixed",
            "donor.alpha <- PortingFixed",
            "recipient.beta <- PortingFixed",
            "open lanes",
        )
        talk.lanes_opened().expect(P.PREPARING, "recipient.beta <- OpenInbound")
        talk.hear(BETA, InboundOpened(port_id=PORT)).expect(P.STARTING, "donor.alpha <- StartOutbound")
        talk.hear(ALPHA, OutboundStarted(port_id=PORT)).expect(P.TRANSFERRING)
        talk.hear(BETA_NODE, request_switchover())
        talk.expect(P.SWITCHING, "commit epoch 2 to beta", "node.beta.beta-1 <- SwitchoverGranted")
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2)).expect(P.SWITCHING)
        talk.hear(ALPHA, outbound_finished())
        talk.expect(P.FINISHING, "donor.alpha <- DisconnectVm", "recipient.beta <- ProvisionVm")
        talk.hear(ALPHA, VmDisconnected(port_id=PORT)).expect(P.FINISHING)
        talk.pass_time(timedelta(seconds=30)).hear(BETA, VmProvisioned(port_id=PORT))
        talk.expect(
            P.COMPLETED,
            "tenant.acme <- PortCompleted",
            "donor.alpha <- PortCompleted",
            "recipient.beta <- PortCompleted",
            "close lanes",
            "end: completed completed",
        )
        assert (talk.state.owner, talk.state.epoch, talk.state.released) == ("beta", 2, ("beta",))

    def test_agreement_has_what_was_promised(self) -> None:
        """The agreement holds the quote's promises, the next epoch, both nodes and the recipient's domain XML."""
        talk = Conversation.begin(request(max_downtime_ms=700)).fixed()
        fixed = talk.state.agreement
        assert fixed is not None
        assert (fixed.donor_node, fixed.recipient_node, fixed.epoch) == ("alpha-1", "beta-1", 2)
        assert (fixed.promised_total_s, fixed.promised_downtime_ms) == (60.0, 500)
        assert fixed.deadline == NOW + talk.timing.transfer

    def test_sla_record_compares(self) -> None:
        """The end says what was promised and what was measured, by the donor's clock for the downtime."""
        talk = Conversation.begin(request()).completed()
        completed = sent_to_tenant(talk)
        assert completed.sla.measured_downtime_ms == 120
        assert completed.sla.kept
        assert (completed.memory_bytes, completed.disk_bytes, completed.wire_bytes) == (500, 600, 700)

    def test_commands_perish_with_their_phase(self) -> None:
        """A command that comes after its phase's deadline is worth nothing; news of the end always is."""
        talk = Conversation.begin(request()).fixed().lanes_opened()
        assert talk.last is not None
        (opening,) = talk.last.effects
        assert isinstance(opening, Send)
        assert opening.deadline == talk.state.deadline

    def test_request_for_switchover_may_overtake_the_start(self) -> None:
        """The node's request has one hop, the news of the start two: switchover is granted while STARTING."""
        talk = Conversation.begin(request()).fixed().lanes_opened()
        talk.hear(BETA, InboundOpened(port_id=PORT)).hear(BETA_NODE, request_switchover())
        talk.expect(P.SWITCHING, "commit epoch 2 to beta", "node.beta.beta-1 <- SwitchoverGranted")
        talk.hear(ALPHA, OutboundStarted(port_id=PORT)).expect(P.SWITCHING)


def sent_to_tenant(talk: Conversation) -> PortCompleted:
    """The news of completion."""
    assert talk.last is not None
    for effect in talk.last.effects:
        if isinstance(effect, Send) and effect.to == ACME and isinstance(effect.message, PortCompleted):
            return effect.message
    raise AssertionError("the tenant was not told")


class TestChoosing:
    """Refusals, quotes and reservations."""

    def test_donor_rejects(self) -> None:
        """The donor's refusals reach the tenant as they are."""
        talk = Conversation.begin(request())
        talk.hear(ALPHA, DonorRejected(port_id=PORT, refusals=(refusal("dues_open"),)))
        talk.expect(P.REFUSED, "tenant.acme <- PortRefused", "end: refused dues_open")
        refused = sent(talk, PortRefused)
        assert isinstance(refused, PortRefused)
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
        refused = sent(talk, PortRefused)
        assert isinstance(refused, PortRefused)
        assert refused.refused_by == "recipient.beta"

    def test_offer_above_the_limit_is_refused_by_the_broker(self) -> None:
        """That an offer breaks the tenant's limit is the broker's finding."""
        talk = Conversation.begin(request(max_price_per_month="5.00"))
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote(price="9.00")))
        refused = sent(talk, PortRefused)
        assert isinstance(refused, PortRefused)
        assert (refused.refused_by, refused.refusals[0].code) == ("broker", "too_expensive")

    def test_best_of_two(self) -> None:
        """The cheapest acceptable offer is chosen once all have answered; the other one is let go when it is fixed."""
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

    def test_next_best_after_refused_reservation(self) -> None:
        """When the platform check refuses, the next best offer is tried with the whole time of the phase."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="7.00")))
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma", price="8.00")))
        talk.pass_time(timedelta(seconds=10)).hear(BETA, ReservationRefused(port_id=PORT, refusals=(refusal(),)))
        talk.expect(P.RESERVING, "recipient.beta <- ReleaseReservation", "recipient.gamma <- ReservationRequested")
        assert talk.state.deadline == talk.now + talk.timing.reserving

    def test_silent_reservation_then_nobody_left(self) -> None:
        """A recipient that does not answer is let go; with nobody left the port is refused, with all reasons."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta")))
        talk.hear(GAMMA, QuoteDeclined(port_id=PORT, refusals=(refusal("no_bridge"),)))
        talk.deadline()
        refused = sent(talk, PortRefused)
        assert isinstance(refused, PortRefused)
        assert [each.code for each in refused.refusals] == ["no_offer", "no_answer", "no_bridge"]

    def test_who_is_late_has_declined(self) -> None:
        """At the deadline the offers that came are chosen from."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta"))).deadline()
        talk.expect(P.RESERVING, "recipient.beta <- ReservationRequested")
        assert talk.state.declined["gamma"][0].code == "no_answer"

    def test_late_reservation_is_released(self) -> None:
        """A reservation that comes after the choice went elsewhere does not hold capacity."""
        talk = self._quoting("best", ("beta", "gamma"))
        talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="7.00")))
        talk.hear(GAMMA, QuoteOffered(port_id=PORT, quote=quote("gamma", price="8.00"))).deadline()
        talk.hear(BETA, reserved("beta")).expect(P.RESERVING, "recipient.beta <- ReleaseReservation")

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
        planned = sent(talk, PortPlanned)
        assert isinstance(planned, PortPlanned)
        assert [offer.provider for offer in planned.quotes] == ["beta", "gamma"]

    @staticmethod
    def _quoting(to: str, candidates: tuple[str, ...] = ("beta",)) -> Conversation:
        return Conversation.begin(request(to), candidates).hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))


class TestMoving:
    """Window, deadlines and failures before the switchover."""

    def test_waits_for_the_window(self) -> None:
        """Nothing moves and no lanes exist before the window opens."""
        talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1))).fixed()
        talk.expect(
            P.SCHEDULED, "tenant.acme <- PortingFixed", "donor.alpha <- PortingFixed", "recipient.beta <- PortingFixed"
        )
        talk.wake().expect(P.PREPARING, "open lanes")
        assert talk.now == NOW + timedelta(hours=1)

    def test_seeding_begins_ahead_of_the_window(self) -> None:
        """Lanes and halves are wanted six hours before; total time counts from the window, which stays what it was."""
        start = NOW + timedelta(hours=10)
        talk = Conversation.begin(request(window_start=start, seed=True)).fixed()
        talk.expect(
            P.SCHEDULED, "tenant.acme <- PortingFixed", "donor.alpha <- PortingFixed", "recipient.beta <- PortingFixed"
        )
        talk.wake().expect(P.PREPARING, "open lanes")
        assert talk.now == NOW + timedelta(hours=4)
        assert talk.state.moving_since == start
        assert talk.state.agreement is not None
        assert talk.state.agreement.window_start == start

    @pytest.mark.parametrize(
        ("ahead", "since"), [(timedelta(hours=1), timedelta(hours=1)), (timedelta(minutes=-1), timedelta())]
    )
    def test_seeding_never_begins_in_the_past(self, ahead: timedelta, since: timedelta) -> None:
        """A window that is nearer than the time to seed, or open, leads on at once."""
        talk = Conversation.begin(request(window_start=NOW + ahead, seed=True)).fixed()
        assert talk.state.phase is P.PREPARING
        assert talk.state.moving_since == NOW + since

    def test_a_late_broker_skips_the_seeding(self) -> None:
        """Total time then counts from when the broker came to it."""
        talk = Conversation.begin(request(window_start=NOW + timedelta(hours=10), seed=True)).fixed()
        talk.pass_time(timedelta(hours=11)).wake().expect(P.PREPARING, "open lanes")
        assert talk.state.moving_since == NOW + timedelta(hours=11)

    def test_a_seeding_that_is_cancelled_is_undone(self) -> None:
        """It is a transfer like any other: both halves are stopped."""
        talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1), seed=True)).transferring()
        talk.hear(ACME, CancelPort(port_id=PORT))
        talk.expect(P.ABORTING, "donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer")

    def test_window_missed(self) -> None:
        """A broker that was away past the deadline does not start any more."""
        deadline = NOW + timedelta(hours=2)
        talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1), deadline=deadline)).fixed()
        talk.pass_time(timedelta(hours=3)).wake()
        talk.expect(
            P.FAILED,
            "tenant.acme <- PortFailed",
            "donor.alpha <- PortFailed",
            "recipient.beta <- PortFailed",
            "recipient.beta <- ReleaseReservation",
            "end: failed window_missed",
        )

    def test_the_tenant_reads_what_both_halves_say(self) -> None:
        """The half that speaks first may only have noticed; the reason of the other one is added once."""
        talk = Conversation.begin(request()).transferring()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True)).expect(P.ABORTING)
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True)).expect(P.ABORTING)
        assert talk.state.failure is not None
        assert talk.state.failure.detail == "beta, inbound half: gone; alpha, outbound half: lane_lost: gone"

    @pytest.mark.parametrize(("side", "sender"), [(Side.OUTBOUND, ALPHA), (Side.INBOUND, BETA)])
    def test_failed_half_aborts_both(self, side: Side, sender: object) -> None:
        """When a half fails, both are stopped, and the port ends when both have confirmed."""
        talk = Conversation.begin(request()).transferring()
        assert sender in {ALPHA, BETA}
        talk.hear(ALPHA if side is Side.OUTBOUND else BETA, transfer_failed(side, guest_running=False))
        talk.expect(P.ABORTING, "donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer")
        talk.hear(BETA, transfer_aborted(Side.INBOUND)).expect(P.ABORTING)
        talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND))
        talk.expect(
            P.FAILED,
            "tenant.acme <- PortFailed",
            "donor.alpha <- PortFailed",
            "recipient.beta <- PortFailed",
            "recipient.beta <- ReleaseReservation",
            "close lanes",
            "end: failed lane_lost",
        )
        failed = [e.message for e in talk.last.effects if isinstance(e, Send) and isinstance(e.message, PortFailed)]  # type: ignore[union-attr]  # set by hear
        assert {each.vm_runs_at for each in failed} == {"alpha"}

    def test_silent_donor_node(self) -> None:
        """While progress is reported the transfer may take its time; without, it is aborted."""
        talk = Conversation.begin(request()).transferring()
        talk.pass_time(talk.timing.silence).deadline(last_heard=talk.now - timedelta(seconds=5))
        talk.expect(P.TRANSFERRING)
        assert talk.state.deadline == talk.now - timedelta(seconds=5) + talk.timing.silence
        talk.deadline(last_heard=talk.now - timedelta(seconds=5))
        talk.expect(P.ABORTING, "donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer")
        assert talk.state.failure is not None
        assert talk.state.failure.code == "donor_node_silent"

    def test_port_deadline(self) -> None:
        """A port that is not switched over by its deadline is abandoned, however much progress there is."""
        talk = Conversation.begin(request(deadline=NOW + timedelta(seconds=90))).transferring()
        talk.deadline(last_heard=NOW + timedelta(seconds=89))
        assert talk.state.failure is not None
        assert (talk.state.phase, talk.state.failure.code) == (P.ABORTING, "deadline_passed")

    @pytest.mark.parametrize("steps", [0, 1])
    def test_silent_half(self, steps: int) -> None:
        """A half that does not get ready in time ends the port."""
        talk = Conversation.begin(request()).fixed().lanes_opened()
        if steps:
            talk.hear(BETA, InboundOpened(port_id=PORT))
        talk.deadline()
        assert talk.state.failure is not None
        assert talk.state.failure.code == ("outbound_silent" if steps else "inbound_silent")

    def test_abort_is_repeated_and_ends_without_confirmation(self) -> None:
        """AbortTransfer is said again to whom has not answered; in the end the port ends without, and says so."""
        talk = Conversation.begin(request()).transferring()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False)).hear(BETA, transfer_aborted(Side.INBOUND))
        talk.wake().expect(P.ABORTING, "donor.alpha <- AbortTransfer")
        talk.deadline()
        assert talk.state.phase is P.FAILED
        assert "outbound" in talk.state.warnings[0]

    def test_donor_guest_not_running_is_told(self) -> None:
        """If the donor's VM does not run after the abort, the tenant hears of it."""
        talk = Conversation.begin(request()).transferring()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False)).hear(BETA, transfer_aborted(Side.INBOUND))
        talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND, guest_running=False))
        assert talk.last is not None
        details = [
            e.message.detail for e in talk.last.effects if isinstance(e, Send) and isinstance(e.message, PortFailed)
        ]
        assert all("does not run" in detail for detail in details)


class TestSwitchover:
    """The commit, its repetition, its refusal, and the way back."""

    def test_repeated_request_is_granted_again(self) -> None:
        """A node that asks twice gets the same grant, and no second commit."""
        talk = Conversation.begin(request()).switching().hear(BETA_NODE, request_switchover())
        talk.expect(P.SWITCHING, "node.beta.beta-1 <- SwitchoverGranted")

    @pytest.mark.parametrize(
        "asked", [request_switchover(3), request_switchover().model_copy(update={"vm_uuid": PORT})]
    )
    def test_what_was_not_agreed_is_denied(self, asked: object) -> None:
        """Another epoch or another VM is denied, and the transfer goes on."""
        talk = Conversation.begin(request()).transferring()
        assert isinstance(asked, type(request_switchover()))
        talk.hear(BETA_NODE, asked).expect(P.TRANSFERRING, "node.beta.beta-1 <- SwitchoverDenied")

    def test_denied_after_abort(self) -> None:
        """Once an abort is decided there is no switchover any more."""
        talk = Conversation.begin(request()).transferring().hear(ACME, CancelPort(port_id=PORT))
        talk.hear(BETA_NODE, request_switchover()).expect(P.ABORTING, "node.beta.beta-1 <- SwitchoverDenied")
        denied = sent(talk, SwitchoverDenied)
        assert isinstance(denied, SwitchoverDenied)
        assert denied.code == "cancelled"

    def test_denied_past_the_deadline(self) -> None:
        """A request after the port's deadline comes too late, even if the deadline's own event was not handled yet."""
        talk = Conversation.begin(request(deadline=NOW + timedelta(seconds=90))).transferring()
        talk.pass_time(timedelta(seconds=91)).hear(BETA_NODE, request_switchover())
        talk.expect(P.TRANSFERRING, "node.beta.beta-1 <- SwitchoverDenied")

    def test_denied_before_the_window(self) -> None:
        """However far a seeding is, the VM does not pass before its window, but for a difference of clocks."""
        talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1), seed=True)).transferring()
        talk.pass_time(timedelta(minutes=58)).hear(BETA_NODE, request_switchover())
        talk.expect(P.TRANSFERRING, "node.beta.beta-1 <- SwitchoverDenied")
        denied = sent(talk, SwitchoverDenied)
        assert isinstance(denied, SwitchoverDenied)
        assert denied.code == "window_closed"
        talk.pass_time(timedelta(minutes=1)).hear(BETA_NODE, request_switchover())
        talk.expect(P.SWITCHING, "commit epoch 2 to beta", "node.beta.beta-1 <- SwitchoverGranted")

    def test_other_node_cannot_ask(self) -> None:
        """Only the agreed node may ask for the VM."""
        talk = Conversation.begin(request()).transferring()
        for stranger in (node("beta", "beta-2"), ALPHA_NODE, BETA):
            talk.hear(stranger, request_switchover()).expect(P.TRANSFERRING)
            assert talk.last is not None
            assert talk.last.verdict is Verdict.REFUSED

    def test_recipient_fails_after_grant(self) -> None:
        """If the recipient says that no guest runs there, the next epoch gives the VM back to the donor."""
        talk = Conversation.begin(request()).switching()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.expect(
            P.ABORTING,
            "commit epoch 3 to alpha",
            "node.alpha.alpha-1 <- SwitchoverState",
            "donor.alpha <- AbortTransfer",
            "recipient.beta <- AbortTransfer",
        )
        owner = sent(talk, SwitchoverState)
        assert isinstance(owner, SwitchoverState)
        assert (owner.committed, owner.owner, owner.epoch) == (False, "alpha", 3)
        talk.hear(BETA_NODE, request_switchover()).expect(P.ABORTING, "node.beta.beta-1 <- SwitchoverDenied")
        talk.hear(ACME, CancelPort(port_id=PORT)).expect(P.ABORTING, "tenant.acme <- CancelRefused")
        talk.hear(BETA, transfer_aborted(Side.INBOUND)).hear(ALPHA, transfer_aborted(Side.OUTBOUND))
        assert (talk.state.phase, talk.state.owner) == (P.FAILED, "alpha")

    def test_no_way_back_once_the_donor_let_go(self) -> None:
        """If the donor has seen the guest leave, a failure there does not give the VM back; an operator is called."""
        talk = Conversation.begin(request()).switching().hear(ALPHA, outbound_finished())
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.expect(P.SWITCHING, "alarm: lost_after_arrival")

    def test_recipient_fails_but_runs(self) -> None:
        """A recipient that reports trouble, but runs the guest, has it."""
        talk = Conversation.begin(request()).switching().hear(ALPHA, outbound_finished())
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=True))
        talk.expect(P.FINISHING, "donor.alpha <- DisconnectVm", "recipient.beta <- ProvisionVm")

    def test_donor_fails_after_commit(self) -> None:
        """The donor's failure after the commit changes nothing; that its copy runs is an alarm."""
        talk = Conversation.begin(request()).switching()
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True))
        talk.expect(P.SWITCHING, "alarm: runs_at_donor_after_commit")
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        talk.expect(P.FINISHING, "donor.alpha <- DisconnectVm", "recipient.beta <- ProvisionVm")
        talk.hear(ALPHA, VmDisconnected(port_id=PORT)).hear(BETA, VmProvisioned(port_id=PORT))
        assert any("estimate" in warning for warning in talk.state.warnings)

    def test_unknown_arrival_is_asked_for(self) -> None:
        """While nobody says whether the VM runs, the grant is repeated, and an operator is called."""
        talk = Conversation.begin(request()).switching().deadline()
        talk.expect(P.RESOLVING, "node.beta.beta-1 <- SwitchoverGranted", "alarm: arrival_unknown")
        talk.wake().expect(P.RESOLVING, "node.beta.beta-1 <- SwitchoverGranted")
        talk.deadline().expect(P.RESOLVING, "alarm: arrival_unknown", "node.beta.beta-1 <- SwitchoverGranted")
        assert talk.state.deadline is not None
        assert talk.state.deadline > talk.now
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2)).expect(P.RESOLVING)
        talk.deadline().expect(P.FINISHING, "donor.alpha <- DisconnectVm", "recipient.beta <- ProvisionVm")

    def test_figures_missing(self) -> None:
        """An arrived VM is finished without the donor's figures when they do not come."""
        talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        talk.deadline().expect(P.FINISHING, "donor.alpha <- DisconnectVm", "recipient.beta <- ProvisionVm")
        talk.hear(ALPHA, outbound_finished()).expect(P.FINISHING)
        assert talk.state.outbound == outbound_finished()

    @pytest.mark.parametrize(
        ("upto", "expected"),
        [
            ("transferring", (False, "alpha", 1, False)),
            ("switching", (True, "beta", 2, False)),
            ("completed", (True, "beta", 2, True)),
        ],
    )
    def test_nodes_ask_who_owns(self, upto: str, expected: tuple[bool, str, int, bool]) -> None:
        """A node that asks who owns the VM is told, in every phase."""
        talk: Conversation = getattr(Conversation.begin(request()), upto)()
        for asking in (ALPHA_NODE, BETA_NODE):
            talk.hear(asking, QuerySwitchover(port_id=PORT))
            answer = sent(talk, SwitchoverState)
            assert isinstance(answer, SwitchoverState)
            assert (answer.committed, answer.owner, answer.epoch, answer.ended) == expected

    def test_request_after_completion_is_answered_with_the_owner(self) -> None:
        """Neither grant nor denial fits a port that is over: a denial would destroy a running VM."""
        talk = Conversation.begin(request()).completed().hear(BETA_NODE, request_switchover())
        talk.expect(P.COMPLETED, "node.beta.beta-1 <- SwitchoverState")


class TestFinishing:
    """Completion is asked for until it is done."""

    def test_asked_again_after_failure(self) -> None:
        """What could not be done is asked for again after a growing pause; what is done is not."""
        talk = Conversation.begin(request()).finishing().hear(ALPHA, VmDisconnected(port_id=PORT))
        failed = CompletionFailed(port_id=PORT, side=Side.INBOUND, code="libvirt_down", detail="no answer")
        pauses = []
        for _ in range(3):
            talk.hear(BETA, failed).expect(P.FINISHING)
            assert talk.state.wake_at is not None
            pauses.append(talk.state.wake_at - talk.now)
            talk.wake().expect(P.FINISHING, "recipient.beta <- ProvisionVm")
        assert pauses == sorted(set(pauses))

    def test_late_completion_calls_an_operator(self) -> None:
        """A completion that takes too long is an alarm, and goes on."""
        talk = Conversation.begin(request()).finishing().deadline()
        talk.expect(
            P.FINISHING, "alarm: completion_late", "donor.alpha <- DisconnectVm", "recipient.beta <- ProvisionVm"
        )

    def test_side_must_fit_the_sender(self) -> None:
        """The donor cannot fail the recipient's part, nor abort it."""
        talk = Conversation.begin(request()).finishing()
        talk.hear(ALPHA, CompletionFailed(port_id=PORT, side=Side.INBOUND, code="no", detail="no"))
        assert talk.last is not None
        assert talk.last.verdict is Verdict.IGNORED
        talk = Conversation.begin(request()).transferring().hear(ACME, CancelPort(port_id=PORT))
        talk.hear(ALPHA, transfer_aborted(Side.INBOUND)).expect(P.ABORTING)

    def test_erased_disks_are_recorded(self) -> None:
        """The end of the quarantine comes long after the end of the port, and is recorded."""
        talk = Conversation.begin(request()).completed().hear(ALPHA, DisksErased(port_id=PORT, erased_bytes=5))
        talk.expect(P.COMPLETED)
        assert talk.last is not None
        assert talk.last.verdict is Verdict.HANDLED


class TestCancel:
    """Cancel works in every phase before switchover, and is too late after it."""

    def test_before_anything_moves(self) -> None:
        """The port ends at once, and whoever was asked lets go."""
        talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1))).fixed()
        talk.hear(ACME, CancelPort(port_id=PORT))
        talk.expect(
            P.CANCELLED,
            "tenant.acme <- PortCancelled",
            "donor.alpha <- PortCancelled",
            "recipient.beta <- PortCancelled",
            "recipient.beta <- ReleaseReservation",
            "end: cancelled cancelled",
        )

    @pytest.mark.parametrize("inbound_opened", [False, True])
    def test_while_halves_exist(self, inbound_opened: bool) -> None:  # noqa: FBT001  # pytest passes it
        """Both halves are stopped first."""
        talk = Conversation.begin(request()).fixed().lanes_opened()
        if inbound_opened:
            talk.hear(BETA, InboundOpened(port_id=PORT))
        talk.hear(ACME, CancelPort(port_id=PORT))
        talk.expect(P.ABORTING, "donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer")
        talk.hear(ACME, CancelPort(port_id=PORT)).expect(P.ABORTING)
        talk.hear(BETA, transfer_aborted(Side.INBOUND)).hear(ALPHA, transfer_aborted(Side.OUTBOUND))
        assert talk.state.phase is P.CANCELLED

    @pytest.mark.parametrize(
        ("upto", "code"), [("switching", "too_late"), ("finishing", "too_late"), ("completed", "already_ended")]
    )
    def test_too_late(self, upto: str, code: str) -> None:
        """After the commit a cancel changes nothing and is told why."""
        talk: Conversation = getattr(Conversation.begin(request()), upto)()
        before = talk.state
        talk.hear(ACME, CancelPort(port_id=PORT))
        answer = sent(talk, CancelRefused)
        assert isinstance(answer, CancelRefused)
        assert (answer.code, talk.state) == (code, before)

    def test_strangers_learn_nothing(self) -> None:
        """Another tenant's cancel is answered as if the port did not exist."""
        talk = Conversation.begin(request()).transferring().hear(tenant("globex"), CancelPort(port_id=PORT))
        talk.expect(P.TRANSFERRING, "tenant.globex <- CancelRefused")
        answer = sent(talk, CancelRefused)
        assert isinstance(answer, CancelRefused)
        assert answer.code == "unknown_port"


class TestTable:
    """The table itself."""

    def test_every_phase_has_its_row(self) -> None:
        """All phases are there; all but the ends have a deadline and something that happens then."""
        assert set(TABLE) == set(PortPhase)
        for phase, row in TABLE.items():
            waits = phase not in ENDS
            assert (row.limit is not None, row.on_deadline is not None, bool(row.limit_text)) == (waits, waits, waits)

    def test_every_port_message_to_the_broker_has_a_speaker(self) -> None:
        """No message that may be sent to the broker about a port is forgotten; the request and the progress go
        elsewhere.
        """
        known = {
            kind for kind in MESSAGE_TYPES.values() if issubclass(kind, PortMessage) and Role.BROKER in kind.RECEIVERS
        }
        assert known - {PortRequested, PortProgressed} == set(SPEAKERS)

    def test_wrong_party_is_refused(self) -> None:
        """Whoever speaks for somebody else changes nothing."""
        talk = Conversation.begin(request())
        for stranger in (donor("beta"), recipient("beta"), ALPHA_NODE):
            talk.hear(stranger, DonorApproved(port_id=PORT, identity=identity())).expect(P.APPROVAL)
            assert talk.last is not None
            assert talk.last.verdict is Verdict.REFUSED

    def test_unexpected_is_ignored(self) -> None:
        """A message that does not fit the phase is noted and changes nothing."""
        talk = Conversation.begin(request()).transferring()
        before = talk.state
        talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity())).expect(P.TRANSFERRING)
        assert talk.last is not None
        assert (talk.last.verdict, talk.state) == (Verdict.IGNORED, before)
        assert "transferring" in talk.last.note

    def test_early_timers_are_ignored(self) -> None:
        """A timer that is no longer the state's own does nothing."""
        talk = Conversation.begin(request()).transferring()
        assert talk.state.deadline is not None
        early = Conversation(talk.state, now=talk.state.deadline - timedelta(seconds=1))
        decision = step(early.state, DeadlinePassed(), early.now, early.timing)
        assert (decision.verdict, decision.state) == (Verdict.IGNORED, talk.state)

    def test_diagram_is_the_committed_one(self) -> None:
        """The picture in the documents is drawn from this table."""
        assert services.broker.__file__ is not None
        committed = Path(services.broker.__file__).parent / "saga.md"
        assert committed.read_text() == markdown()
        assert "transferring --> switching: RequestSwitchover" in mermaid()

    def test_state_survives_json(self) -> None:
        """A state with everything in it is the same after being saved."""
        state = Conversation.begin(request()).completed().state
        assert SagaState.model_validate_json(state.model_dump_json()) == state

    def test_granted_epoch_is_the_agreed_one(self) -> None:
        """The grant names the epoch of the agreement that everybody holds."""
        talk = Conversation.begin(request()).transferring()
        talk.hear(BETA_NODE, request_switchover())
        grant = sent(talk, SwitchoverGranted)
        assert isinstance(grant, SwitchoverGranted)
        assert talk.state.agreement is not None
        assert grant.epoch == talk.state.agreement.epoch == 2
        assert talk.state.agreement.vm_uuid == VM

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
