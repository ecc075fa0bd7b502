"""An operator settles a port that waits for somebody who will never speak."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.broker.saga import ENDS, TABLE, CommitEpoch, Verdict
from shared.messages.base import MAX_TEXT
from shared.messages.porting import InboundFinished, Side, SwitchoverState, VmDisconnected, VmProvisioned
from shared.messages.service_change import PortCompleted, PortFailed, PortPhase
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    LONG,
    PORT,
    VM,
    Conversation,
    outbound_finished,
    request,
    transfer_aborted,
    transfer_failed,
)

P = PortPhase


def resolving() -> Conversation:
    """Granted, and the recipient's host is gone."""
    return Conversation.begin(request()).switching().deadline().deadline()


def contradicted() -> Conversation:
    """Given back to a donor that says that the guest left."""
    return Conversation.begin(request()).given_back().hear(ALPHA, outbound_finished())


def test_every_phase_without_end_can_be_settled() -> None:
    """What a deadline does not end, an operator can."""
    endless = {phase for phase, row in TABLE.items() if row.limit_text.endswith("repeated")}
    assert endless == {P.RESOLVING, P.FINISHING}
    assert {phase for phase, row in TABLE.items() if row.on_settled} == endless | {P.ABORTING}


@pytest.mark.parametrize("upto", ["fixed", "transferring", "switching", "completed"])
def test_a_port_that_ends_by_itself_is_not_settled(upto: str) -> None:
    """It has a deadline, or has ended."""
    talk: Conversation = getattr(Conversation.begin(request()), upto)()
    before = talk.state
    talk.settle("donor").expect(before.phase)
    assert talk.last is not None
    assert (talk.state, talk.last.verdict) == (before, Verdict.IGNORED)


def test_an_abort_that_ends_by_itself_is_not_settled() -> None:
    """Only one whose parties contradict each other."""
    talk = Conversation.begin(request()).transferring()
    talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False)).settle("recipient").expect(P.ABORTING)
    assert talk.last is not None
    assert talk.last.verdict is Verdict.IGNORED


class TestForTheDonor:
    """The next epoch gives the VM back."""

    @pytest.mark.parametrize("phase", [P.RESOLVING, P.FINISHING])
    def test_given_back(self, phase: PortPhase) -> None:
        """The port is aborted; the record and the tenant have who decided it, and on what evidence."""
        talk = resolving() if phase is P.RESOLVING else Conversation.begin(request()).finishing()
        talk.settle("donor", "beta-1 burnt down")
        talk.expect(
            P.ABORTING,
            "commit epoch 3 to alpha",
            "node.alpha.alpha-1 <- SwitchoverState",
            "donor.alpha <- AbortTransfer",
            "recipient.beta <- AbortTransfer",
        )
        told = talk.sent(SwitchoverState)
        assert (told.committed, told.owner, told.epoch, told.arrived) == (False, "alpha", 3, False)
        settled = talk.state.settled
        assert settled is not None
        assert (settled.owner, settled.by, settled.at) == ("alpha", "root@broker-1", talk.now)
        talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND)).deadline()
        failed = talk.sent(PortFailed, to=ACME)
        assert (failed.code, failed.vm_runs_at) == ("settled", "alpha")
        assert "beta-1 burnt down" in failed.detail

    def test_contradiction(self) -> None:
        """The abort ends with what the operator found."""
        talk = contradicted().settle("donor", "it stands at alpha-1")
        assert (talk.state.phase, talk.state.owner) == (P.FAILED, "alpha")
        assert "it stands at alpha-1" in talk.sent(PortFailed, to=ACME).detail


class TestForTheRecipient:
    """The port finishes, perhaps with a debt."""

    def test_arrival_that_nobody_reports(self) -> None:
        """An operator's word stands for both sides' words."""
        talk = resolving().settle("recipient", "runs at beta-1, virsh domstate")
        talk.expect(P.FINISHING, "recipient.beta <- ProvisionVm")
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING, "donor.alpha <- DisconnectVm")
        talk.hear(ALPHA, VmDisconnected(port_id=PORT))
        completed = talk.sent(PortCompleted, to=ACME)
        assert any("runs at beta-1, virsh domstate" in warning for warning in completed.warnings)

    def test_donor_that_is_gone(self) -> None:
        """What the donor has not confirmed is named, and the VM is free for its next port."""
        talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2)).deadline()
        talk.hear(BETA, VmProvisioned(port_id=PORT)).settle("recipient", "alpha-1 is scrap")
        talk.expect(P.FINISHING, "donor.alpha <- DisconnectVm")
        talk.deadline()
        assert talk.state.phase is P.COMPLETED
        warnings = talk.sent(PortCompleted, to=ACME).warnings
        assert "Not confirmed: the disconnection at alpha." in warnings
        assert any("alpha-1 is scrap" in warning for warning in warnings)
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.COMPLETED)
        talk.hear(ALPHA, VmDisconnected(port_id=PORT)).expect(P.COMPLETED)

    def test_time_that_the_confirmations_have(self) -> None:
        """The phase's whole time from the decision on; nobody's word is waited for any more."""
        talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2)).deadline()
        talk.pass_time(timedelta(seconds=90)).settle("recipient")
        assert talk.state.deadline == talk.now + talk.timing.finishing
        assert talk.state.wake_at is None
        assert talk.state.settled is not None
        assert talk.state.settled.owner == "beta"
        assert talk.last is not None
        assert talk.last.note == str(talk.state.settled)

    def test_recipient_that_does_not_provision(self) -> None:
        """The donor keeps its disks until the recipient has paid; then it is told to disconnect, after the end."""
        talk = resolving().settle("recipient").deadline()
        assert talk.state.phase is P.COMPLETED
        warnings = talk.sent(PortCompleted, to=ACME).warnings
        assert {"Not confirmed: the disconnection at alpha.", "Not confirmed: the provisioning at beta."} <= set(
            warnings
        )
        talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.COMPLETED, "donor.alpha <- DisconnectVm")

    def test_contradiction(self) -> None:
        """The VM was given back, and runs at the recipient all the same: the next epoch is the recipient's."""
        talk = contradicted().settle("recipient")
        talk.expect(
            P.FINISHING,
            "commit epoch 4 to beta",
            "node.alpha.alpha-1 <- SwitchoverState",
            "recipient.beta <- ProvisionVm",
        )
        assert talk.effect(CommitEpoch) == CommitEpoch(VM, 4, "beta", "beta-1")
        told = talk.sent(SwitchoverState, to=ALPHA_NODE)
        assert (told.committed, told.owner, told.epoch, told.ready) == (True, "beta", 4, False)
        assert (talk.state.contradiction, talk.state.failure) == ("", None)
        talk.hear(BETA, VmProvisioned(port_id=PORT)).hear(ALPHA, VmDisconnected(port_id=PORT))
        assert (talk.state.phase, talk.state.owner) == (P.COMPLETED, "beta")

    def test_contradiction_that_was_settled_wrongly(self) -> None:
        """Taken back, it is an abort like any other: both sides are asked again, and the deadline ends it."""
        talk = contradicted().hear(BETA, transfer_aborted(Side.INBOUND)).settle("recipient").settle("donor")
        talk.expect(
            P.ABORTING,
            "commit epoch 5 to alpha",
            "node.alpha.alpha-1 <- SwitchoverState",
            "donor.alpha <- AbortTransfer",
            "recipient.beta <- AbortTransfer",
        )
        talk.deadline()
        assert (talk.state.phase, talk.state.owner) == (P.FAILED, "alpha")

    def test_settled_again_for_the_other_side(self) -> None:
        """A decision that was wrong can be taken back while the port finishes."""
        talk = resolving().settle("recipient").settle("donor")
        assert (talk.state.phase, talk.state.owner, talk.state.epoch) == (P.ABORTING, "alpha", 3)
        assert talk.state.phase not in ENDS


def test_long_evidence_is_clipped() -> None:
    """`Conversation` saves each state and reads it back."""
    talk = resolving().settle("recipient", LONG)
    assert talk.state.settled is not None
    assert len(talk.state.settled.evidence) == MAX_TEXT
