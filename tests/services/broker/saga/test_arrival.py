"""After the commit: the arrival, and how a VM is given back."""

from __future__ import annotations

from services.broker.saga import Alarm, CommitEpoch, Verdict
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
from shared.messages.switchover import CopyState, QueryCopy
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
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
        """If the recipient says that no guest runs there, and the donor's node has not let it go, the next epoch gives
        the VM back to the donor.
        """
        talk = Conversation.begin(request()).asking_for_the_copy()
        talk.expect(P.RESOLVING, "node.alpha.alpha-1 <- QueryCopy")
        assert talk.sent(QueryCopy).vm_uuid == VM
        talk.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=False))
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
        talk = Conversation.begin(request()).given_back()
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


class TestCopyOfTheDonor:
    """The recipient has no guest and had none; the donor's node may know better."""

    def test_a_guest_that_was_let_go_is_the_recipients(self) -> None:
        """It ran there, or the donor's node had not killed its copy: nothing goes back to an older one."""
        talk = Conversation.begin(request()).asking_for_the_copy()
        talk.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=True))
        talk.expect(P.FINISHING, "alarm: lost_after_arrival", "alarm: donor_silent", *DONOR_MISSING)
        assert (talk.state.owner, talk.state.epoch, talk.state.committed) == ("beta", 2, True)
        assert talk.sent(SwitchoverState).arrived
        talk.hear(ALPHA, outbound_finished()).hear(BETA, VmProvisioned(port_id=PORT))
        talk.hear(ALPHA, VmDisconnected(port_id=PORT))
        (warning, *_) = talk.sent(PortCompleted, to=ACME).warnings
        assert warning.startswith("The VM does not run at the recipient: ")

    def test_the_donors_own_word_is_as_good(self) -> None:
        """It has let the guest go, and says so before its node answers."""
        talk = Conversation.begin(request()).asking_for_the_copy().hear(ALPHA, outbound_finished())
        talk.expect(P.FINISHING, "alarm: lost_after_arrival", "recipient.beta <- ProvisionVm")
        talk.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=True)).expect(P.FINISHING)

    def test_a_guest_that_may_have_run_is_the_recipients(self) -> None:
        """Its host was restarted in the instant of its start: the donor's copy may be older, so it is not asked for."""
        talk = Conversation.begin(request()).asking_for_the_copy(may_have_run=True)
        talk.expect(P.SWITCHING, "alarm: lost_after_arrival")
        assert (talk.state.owner, talk.state.arrived_at) == ("beta", talk.now)
        talk.hear(ALPHA, outbound_finished()).expect(P.FINISHING, "recipient.beta <- ProvisionVm")

    def test_it_is_asked_again_and_an_operator_called(self) -> None:
        """Whether it is the first question or the recipient repeats itself."""
        talk = Conversation.begin(request()).asking_for_the_copy()
        assert talk.pauses_s(3) == [2, 4, 8]
        talk.expect(P.RESOLVING, "node.alpha.alpha-1 <- QueryCopy")
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False)).expect(P.RESOLVING)
        talk.deadline().expect(P.RESOLVING, "alarm: copy_unknown", "node.alpha.alpha-1 <- QueryCopy")
        assert talk.state.deadline == talk.now + talk.timing.resolving

    def test_where_the_recipient_was_silent_before(self) -> None:
        """The grant is not repeated any more."""
        talk = Conversation.begin(request()).switching().deadline().wake()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.expect(P.RESOLVING, "node.alpha.alpha-1 <- QueryCopy")
        assert talk.pauses_s(1) == [2]
        talk.expect(P.RESOLVING, "node.alpha.alpha-1 <- QueryCopy")

    def test_an_answer_that_nobody_asked_for_decides_nothing(self) -> None:
        """An old one; or the guest runs at the recipient after all."""
        talk = Conversation.begin(request()).switching().deadline()
        talk.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=False)).expect(P.RESOLVING)
        talk = Conversation.begin(request()).asking_for_the_copy().hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        talk.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=False)).expect(P.RESOLVING)
        assert talk.state.owner == "beta"

    def test_only_the_donors_node_answers(self) -> None:
        """Nobody else knows."""
        talk = Conversation.begin(request()).asking_for_the_copy()
        talk.hear(BETA_NODE, CopyState(port_id=PORT, let_go=False)).expect(P.RESOLVING)
        assert talk.last is not None
        assert talk.last.verdict is Verdict.REFUSED


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
        talk = Conversation.begin(request()).given_back(detail=LONG)
        assert talk.state.failure is not None
        assert len(talk.state.failure.detail) == MAX_TEXT
        talk.hear(BETA_NODE, request_switchover()).expect(P.ABORTING, "node.beta.beta-1 <- SwitchoverDenied")
        assert talk.sent(SwitchoverDenied).detail == talk.state.failure.detail
