"""Switchover, arrival and completion."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.broker.saga import Verdict
from shared.messages.base import MAX_TEXT
from shared.messages.porting import (
    CompletionFailed,
    DisksErased,
    InboundFinished,
    InboundOpened,
    OutboundStarted,
    QuerySwitchover,
    Side,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import CancelPort, PortCompleted, PortPhase
from shared.parties import node
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    LONG,
    NOW,
    PORT,
    VM,
    Conversation,
    outbound_finished,
    request,
    request_switchover,
    transfer_aborted,
    transfer_failed,
)

P = PortPhase


class TestSwitchover:
    """The commit, its repetition, its refusal, and the only way back."""

    def test_request_for_switchover_may_overtake_the_start(self) -> None:
        """The node's request has one hop, the report of the start two: switchover is granted while STARTING."""
        talk = Conversation.begin(request()).fixed().lanes_opened()
        talk.hear(BETA, InboundOpened(port_id=PORT)).hear(BETA_NODE, request_switchover())
        talk.expect(P.SWITCHING, "commit epoch 2 to beta", "node.beta.beta-1 <- SwitchoverGranted")
        talk.hear(ALPHA, OutboundStarted(port_id=PORT)).expect(P.SWITCHING)

    def test_granted_epoch_is_the_agreed_one(self) -> None:
        """The grant names the epoch of the agreement that everybody holds."""
        talk = Conversation.begin(request()).transferring()
        talk.hear(BETA_NODE, request_switchover())
        grant = talk.sent(SwitchoverGranted)
        assert talk.state.agreement is not None
        assert grant.epoch == talk.state.agreement.epoch == 2
        assert talk.state.agreement.vm_uuid == VM

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
        denied = talk.sent(SwitchoverDenied)
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
        denied = talk.sent(SwitchoverDenied)
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
        owner = talk.sent(SwitchoverState)
        assert (owner.committed, owner.owner, owner.epoch) == (False, "alpha", 3)
        talk.hear(BETA_NODE, request_switchover()).expect(P.ABORTING, "node.beta.beta-1 <- SwitchoverDenied")
        talk.hear(ACME, CancelPort(port_id=PORT)).expect(P.ABORTING, "tenant.acme <- CancelRefused")
        talk.hear(BETA, transfer_aborted(Side.INBOUND)).hear(ALPHA, transfer_aborted(Side.OUTBOUND))
        assert (talk.state.phase, talk.state.owner) == (P.FAILED, "alpha")

    def test_not_given_back_once_the_donor_let_go(self) -> None:
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
            answer = talk.sent(SwitchoverState)
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


class TestLongText:
    """Text from a provider is clipped; `Conversation` saves each state and reads it back."""

    def test_warning_of_a_recipient_that_runs(self) -> None:
        """A long report from the recipient becomes a warning that can be saved."""
        talk = Conversation.begin(request()).switching()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=True, detail=LONG)).expect(P.SWITCHING)
        assert [len(warning) for warning in talk.state.warnings] == [MAX_TEXT]
        talk.hear(ALPHA, outbound_finished()).hear(ALPHA, VmDisconnected(port_id=PORT))
        talk.hear(BETA, VmProvisioned(port_id=PORT))
        assert talk.sent(PortCompleted, to=ACME).warnings == talk.state.warnings

    def test_trouble_at_the_donor(self) -> None:
        """A long report from the donor after the commit is kept, clipped."""
        talk = Conversation.begin(request()).switching()
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=False, detail=LONG)).expect(P.SWITCHING)
        assert len(talk.state.outbound_trouble) == MAX_TEXT

    def test_revert(self) -> None:
        """The recipient's report that it has no guest becomes the failure; a later denial repeats it."""
        talk = Conversation.begin(request()).switching()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False, detail=LONG))
        assert talk.state.failure is not None
        assert len(talk.state.failure.detail) == MAX_TEXT
        talk.hear(BETA_NODE, request_switchover()).expect(P.ABORTING, "node.beta.beta-1 <- SwitchoverDenied")
        assert talk.sent(SwitchoverDenied).detail == talk.state.failure.detail
