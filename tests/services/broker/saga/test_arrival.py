"""After the commit: the arrival, and how a VM is given back."""

from __future__ import annotations

from services.broker.saga import Alarm, CommitEpoch
from shared.messages.base import MAX_TEXT
from shared.messages.porting import (
    InboundFinished,
    Side,
    SwitchoverDenied,
    SwitchoverState,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import CancelPort, PortCompleted, PortPhase
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    BETA,
    BETA_NODE,
    LONG,
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
DONOR_MISSING = ("recipient.beta <- ProvisionVm", "node.alpha.alpha-1 <- SwitchoverState")
"""The recipient provisions while the donor's word is awaited."""


class TestArrival:
    """What each side says after the commit."""

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
        """If the donor has seen the guest leave, a failure there does not give the VM back: it had arrived, and went.

        An operator is called, and the recipient makes a lasting VM of it all the same.
        """
        talk = Conversation.begin(request()).switching().hear(ALPHA, outbound_finished())
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.expect(P.FINISHING, "alarm: lost_after_arrival", "recipient.beta <- ProvisionVm")

    def test_guest_that_is_gone_after_its_arrival(self) -> None:
        """The recipient's word that it ran is not taken back: an operator is called."""
        talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.expect(P.SWITCHING, "alarm: lost_after_arrival")

    def test_vm_that_is_given_back_is_the_donors_in_the_ledger(self) -> None:
        """This VM, the next epoch, and the node that it left."""
        talk = Conversation.begin(request()).switching()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        assert talk.effect(CommitEpoch) == CommitEpoch(VM, 3, "alpha", "alpha-1")
        assert not talk.sent(SwitchoverState).ready

    def test_newest_word_of_the_donor_counts(self) -> None:
        """A copy that ran there and was let go later is no reason to wait."""
        talk = Conversation.begin(request()).switching()
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True)).hear(ALPHA, outbound_finished())
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2)).expect(P.FINISHING, "recipient.beta <- ProvisionVm")

    def test_recipient_fails_but_runs(self) -> None:
        """A recipient that reports trouble, but runs the guest, has it."""
        talk = Conversation.begin(request()).switching().hear(ALPHA, outbound_finished())
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=True))
        talk.expect(P.FINISHING, "recipient.beta <- ProvisionVm")

    def test_donor_fails_after_commit(self) -> None:
        """The donor's failure after the commit changes nothing for the recipient; the donor is not stripped of its
        disks while its copy may run.
        """
        talk = Conversation.begin(request()).switching()
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True))
        talk.expect(P.SWITCHING, "alarm: runs_at_donor_after_commit", "node.alpha.alpha-1 <- SwitchoverState")
        assert talk.sent(SwitchoverState).owner == "beta"
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        talk.expect(P.FINISHING, "recipient.beta <- ProvisionVm", "node.alpha.alpha-1 <- SwitchoverState")
        assert talk.sent(SwitchoverState).arrived
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING, "node.alpha.alpha-1 <- SwitchoverState")
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=False))
        talk.expect(P.FINISHING, "donor.alpha <- DisconnectVm")
        talk.hear(ALPHA, VmDisconnected(port_id=PORT))
        assert any("estimate" in warning for warning in talk.state.warnings)

    def test_unknown_arrival_is_asked_for(self) -> None:
        """While nobody says whether the VM runs, the grant is repeated, and an operator is called."""
        talk = Conversation.begin(request()).switching().deadline()
        talk.expect(P.RESOLVING, "node.beta.beta-1 <- SwitchoverGranted", "alarm: arrival_unknown")
        assert talk.pauses_s(3) == [2, 4, 8]
        talk.expect(P.RESOLVING, "node.beta.beta-1 <- SwitchoverGranted")
        talk.deadline().expect(P.RESOLVING, "alarm: arrival_unknown", "node.beta.beta-1 <- SwitchoverGranted")
        assert talk.state.deadline == talk.now + talk.timing.resolving
        assert str(talk.state.switchover_requested_at) in talk.effect(Alarm).detail
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2)).expect(P.RESOLVING)
        talk.deadline().expect(P.FINISHING, "alarm: donor_silent", *DONOR_MISSING)

    def test_donor_says_nothing(self) -> None:
        """An arrived VM is provisioned without the donor's word; the donor is asked for it."""
        talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        talk.deadline().expect(P.FINISHING, "alarm: donor_silent", *DONOR_MISSING)
        talk.hear(ALPHA, outbound_finished()).expect(P.FINISHING)
        assert talk.state.outbound == outbound_finished()


class TestLongText:
    """Text from a provider is clipped; `Conversation` saves each state and reads it back."""

    def test_warning_of_a_recipient_that_runs(self) -> None:
        """A long report from the recipient becomes a warning that can be saved."""
        talk = Conversation.begin(request()).switching()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=True, detail=LONG)).expect(P.SWITCHING)
        assert [len(warning) for warning in talk.state.warnings] == [MAX_TEXT]
        talk.hear(ALPHA, outbound_finished()).hear(BETA, VmProvisioned(port_id=PORT))
        talk.hear(ALPHA, VmDisconnected(port_id=PORT))
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
