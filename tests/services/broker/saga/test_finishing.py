"""The completion: provisioning, then the disconnection after the donor's own word."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from services.broker.saga import SagaState, Verdict
from shared.messages import Message
from shared.messages.porting import (
    CompletionFailed,
    DisksErased,
    InboundFinished,
    Side,
    SwitchoverState,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import CancelPort, PortPhase
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    BETA,
    PORT,
    Conversation,
    outbound_finished,
    request,
    transfer_aborted,
    transfer_failed,
)

P = PortPhase


class TestFinishing:
    """Completion is asked for until it is done."""

    def test_provisioning_comes_first(self) -> None:
        """The donor keeps its disks until the recipient has a lasting VM."""
        talk = Conversation.begin(request()).finishing().expect(P.FINISHING, "recipient.beta <- ProvisionVm")
        assert talk.state.wake_at is None
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING, "donor.alpha <- DisconnectVm")
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING)
        talk.hear(ALPHA, VmDisconnected(port_id=PORT))
        assert talk.state.phase is P.COMPLETED

    def test_guest_that_cannot_be_provisioned_keeps_its_disks_at_the_donor(self) -> None:
        """However long the provisioning fails, the donor is not told to take the VM off."""
        talk = Conversation.begin(request()).finishing()
        failed = CompletionFailed(port_id=PORT, side=Side.INBOUND, code="vm_gone", detail="no such domain")
        for _ in range(5):
            talk.hear(BETA, failed).expect(P.FINISHING)
            talk.wake().expect(P.FINISHING, "recipient.beta <- ProvisionVm")
            talk.deadline().expect(P.FINISHING, "alarm: completion_late", "recipient.beta <- ProvisionVm")

    def test_silent_donor_is_asked_and_not_disconnected(self) -> None:
        """Without the donor's own word its node is asked, again and again; then the disconnection follows."""
        talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2)).deadline()
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING, "node.alpha.alpha-1 <- SwitchoverState")
        assert talk.pauses_s(3) == [2, 4, 8]
        talk.expect(P.FINISHING, "node.alpha.alpha-1 <- SwitchoverState")
        told = talk.sent(SwitchoverState)
        assert (told.committed, told.owner, told.arrived) == (True, "beta", True)
        talk.deadline().expect(P.FINISHING, "alarm: completion_late", "node.alpha.alpha-1 <- SwitchoverState")
        assert talk.state.deadline == talk.now + talk.timing.finishing
        talk.hear(ALPHA, outbound_finished()).expect(P.FINISHING, "donor.alpha <- DisconnectVm")
        talk.hear(ALPHA, VmDisconnected(port_id=PORT))
        assert talk.state.phase is P.COMPLETED

    def test_word_before_the_provisioning(self) -> None:
        """The donor's word alone disconnects nothing; it is remembered until the recipient has provisioned."""
        talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2)).deadline()
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=False)).expect(P.FINISHING)
        talk.wake().expect(P.FINISHING, "recipient.beta <- ProvisionVm")
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING, "donor.alpha <- DisconnectVm")

    def test_copy_that_runs_at_the_donor(self) -> None:
        """A copy that came up at the donor is an alarm, its node is told the owner, and nothing is taken off."""
        talk = Conversation.begin(request()).finishing()
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True))
        talk.expect(P.FINISHING, "alarm: runs_at_donor_after_commit", "node.alpha.alpha-1 <- SwitchoverState")
        talk.wake().expect(P.FINISHING, "recipient.beta <- ProvisionVm", "node.alpha.alpha-1 <- SwitchoverState")
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING, "node.alpha.alpha-1 <- SwitchoverState")
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=False))
        talk.expect(P.FINISHING, "donor.alpha <- DisconnectVm")

    @pytest.mark.parametrize("word", [outbound_finished(), VmDisconnected(port_id=PORT)])
    def test_copy_that_ran_and_was_let_go(self, word: Message) -> None:
        """The donor's newest word counts."""
        talk = Conversation.begin(request()).finishing()
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True)).hear(ALPHA, word)
        assert not talk.state.donor_runs

    def test_guest_lost_at_the_recipient(self) -> None:
        """A guest that had arrived and is gone is an alarm; nothing is given back by itself."""
        talk = Conversation.begin(request()).finishing()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.expect(P.FINISHING, "alarm: lost_after_arrival")
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=True)).expect(P.FINISHING)
        assert talk.state.owner == "beta"

    def test_port_of_an_earlier_release(self) -> None:
        """A state that was saved before the donor's word was kept counts as one without it: the donor is asked."""
        talk = Conversation.begin(request()).finishing()
        fields = talk.state.model_dump(mode="json")
        for name in ("guest_paused_at", "donor_stopped", "donor_runs"):
            del fields[name]
        fields |= {"outbound": None, "outbound_trouble": "lane_lost: gone"}
        talk.state = SagaState.model_validate_json(json.dumps(fields))
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING, "node.alpha.alpha-1 <- SwitchoverState")

    def test_asked_again_after_failure(self) -> None:
        """What could not be done is asked for again after a growing pause; what is done is not."""
        talk = Conversation.begin(request()).finishing().hear(BETA, VmProvisioned(port_id=PORT))
        failed = CompletionFailed(port_id=PORT, side=Side.OUTBOUND, code="libvirt_down", detail="no answer")
        for pause_s in (2, 4, 8):
            talk.hear(ALPHA, failed).expect(P.FINISHING)
            assert talk.state.wake_at == talk.now + timedelta(seconds=pause_s)
        talk.wake().expect(P.FINISHING, "donor.alpha <- DisconnectVm")

    @pytest.mark.parametrize("side", list(Side))
    def test_failure_of_what_is_done(self, side: Side) -> None:
        """It is an old one."""
        talk = Conversation.begin(request()).finishing()
        sender, done = {
            Side.OUTBOUND: (ALPHA, VmDisconnected(port_id=PORT)),
            Side.INBOUND: (BETA, VmProvisioned(port_id=PORT)),
        }[side]
        talk.hear(sender, done)
        before = talk.state
        talk.hear(sender, CompletionFailed(port_id=PORT, side=side, code="no", detail="no"))
        assert talk.last is not None
        assert (talk.last.verdict, talk.state) == (Verdict.IGNORED, before)

    def test_late_completion_calls_an_operator(self) -> None:
        """A completion that takes too long is an alarm that names what is missing, and goes on."""
        talk = Conversation.begin(request()).finishing().deadline()
        talk.expect(P.FINISHING, "alarm: completion_late", "recipient.beta <- ProvisionVm")
        assert talk.last is not None
        assert talk.last.note == "still missing: the disconnection at alpha and the provisioning at beta"

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


class TestAfterTheEnd:
    """Words that come when the port is completed."""

    def test_copy_that_comes_up_at_the_donor(self) -> None:
        """An alarm, and its node is told who owns the VM."""
        talk = Conversation.begin(request()).completed()
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True))
        talk.expect(P.COMPLETED, "alarm: runs_at_donor_after_commit", "node.alpha.alpha-1 <- SwitchoverState")
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=False)).expect(P.COMPLETED)

    def test_guest_lost_at_the_recipient(self) -> None:
        """An alarm, too."""
        talk = Conversation.begin(request()).completed()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.expect(P.COMPLETED, "alarm: lost_after_arrival", "node.alpha.alpha-1 <- SwitchoverState")
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=True)).expect(P.COMPLETED)

    def test_repeated_answers(self) -> None:
        """They are recorded, and lead to nothing."""
        talk = Conversation.begin(request()).completed()
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.COMPLETED)
        talk.hear(ALPHA, VmDisconnected(port_id=PORT)).expect(P.COMPLETED)
