"""How a port ends, and how a transfer is stopped."""

from __future__ import annotations

import pytest

from services.broker.saga import Alarm, CloseLanes, RecordEnd
from shared.bus import LaneEnds
from shared.messages.approval import DonorRejected
from shared.messages.base import MAX_TEXT
from shared.messages.porting import AbortTransfer, InboundFinished, Side, VmDisconnected, VmProvisioned
from shared.messages.service_change import CancelPort, PortCompleted, PortFailed, PortPhase
from shared.messages.switchover import CopyState
from shared.parties import Party
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    LONG,
    PORT,
    Conversation,
    outbound_finished,
    request,
    transfer_aborted,
    transfer_failed,
)

P = PortPhase


def test_the_tenant_reads_what_both_sides_say() -> None:
    """The side that reports first may only have noticed; the reason of the other one is added once."""
    talk = Conversation.begin(request()).transferring()
    talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
    talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True)).expect(P.ABORTING)
    talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True)).expect(P.ABORTING)
    assert talk.state.failure is not None
    assert talk.state.failure.detail == "beta, inbound side: gone; alpha, outbound side: lane_lost: gone"


@pytest.mark.parametrize(("side", "sender"), [(Side.OUTBOUND, ALPHA), (Side.INBOUND, BETA)])
def test_failed_side_aborts_both(side: Side, sender: Party) -> None:
    """When one side fails, both are stopped, and the port ends when both have confirmed."""
    talk = Conversation.begin(request()).transferring()
    talk.hear(sender, transfer_failed(side, guest_running=False))
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
    assert {talk.sent(PortFailed, to=party).vm_runs_at for party in (ACME, ALPHA, BETA)} == {"alpha"}


def test_abort_is_repeated_and_ends_without_confirmation() -> None:
    """AbortTransfer is repeated to the side that has not answered; in the end the port ends without, and says so."""
    talk = Conversation.begin(request()).transferring()
    talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False)).hear(BETA, transfer_aborted(Side.INBOUND))
    assert talk.pauses_s(3) == [2, 4, 8]
    talk.expect(P.ABORTING, "donor.alpha <- AbortTransfer")
    talk.deadline()
    assert talk.state.phase is P.FAILED
    assert "outbound" in talk.state.warnings[0]


def test_donor_guest_not_running_is_told() -> None:
    """If the donor's VM does not run after the abort, the tenant is told."""
    talk = Conversation.begin(request()).transferring()
    talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False)).hear(BETA, transfer_aborted(Side.INBOUND))
    talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND, guest_running=False))
    assert all("does not run" in talk.sent(PortFailed, to=party).detail for party in (ACME, ALPHA, BETA))


def test_copy_that_runs_at_the_recipient_after_the_abort_is_told_once() -> None:
    """Where the guest runs as it should, nothing is told; both sides have confirmed."""
    talk = Conversation.begin(request()).transferring().hear(ACME, CancelPort(port_id=PORT))
    talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND)).hear(BETA, transfer_aborted(Side.INBOUND, guest_running=True))
    assert talk.state.warnings == ("The recipient reports that a copy of the VM runs after the abort.",)
    assert set(talk.state.aborted) == set(Side)
    talk = Conversation.begin(request()).transferring().hear(ACME, CancelPort(port_id=PORT))
    talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND)).hear(BETA, transfer_aborted(Side.INBOUND))
    assert (talk.state.phase, talk.state.warnings) == (P.CANCELLED, ())


def test_warnings_are_kept_once() -> None:
    """One that came before the other side's answer is not repeated at the end."""
    talk = Conversation.begin(request()).transferring().hear(ACME, CancelPort(port_id=PORT))
    talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND, guest_running=False)).hear(BETA, transfer_aborted(Side.INBOUND))
    assert talk.state.warnings == ("The donor reports that the VM does not run after the abort.",)


def test_end_without_success_keeps_its_reason() -> None:
    """Also where nothing had to be aborted."""
    talk = Conversation.begin(request()).deadline()
    assert talk.state.failure is not None
    assert (talk.state.failure.code, talk.state.failure.phase) == ("donor_silent", P.APPROVAL)


def test_refusal_without_a_reason_is_one() -> None:
    """A provider may keep its reasons to itself."""
    talk = Conversation.begin(request()).hear(ALPHA, DonorRejected(port_id=PORT, refusals=()))
    talk.expect(P.REFUSED, "tenant.acme <- PortRefused", "end: refused refused")


def test_figures_of_a_completed_port() -> None:
    """The donor's, in the tenant's message; the measured ones in the record."""
    talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2))
    talk.hear(ALPHA, outbound_finished().model_copy(update={"seeded_bytes": 40}))
    talk.hear(BETA, VmProvisioned(port_id=PORT)).hear(ALPHA, VmDisconnected(port_id=PORT))
    completed = talk.sent(PortCompleted, to=ACME)
    assert (completed.memory_bytes, completed.disk_bytes, completed.wire_bytes, completed.seeded_bytes) == (
        500,
        600,
        700,
        40,
    )
    assert talk.effect(RecordEnd) == RecordEnd(P.COMPLETED, "completed", "served by beta, epoch 2", talk.state.sla)
    assert talk.state.sla is not None
    assert talk.effect(CloseLanes) == CloseLanes(LaneEnds(PORT, ALPHA_NODE, BETA_NODE))
    assert (talk.state.lanes_open, talk.state.deadline, talk.state.wake_at) == (False, None, None)


def test_completed_port_without_figures() -> None:
    """Zero; the record has the warnings of the tenant's message."""
    talk = Conversation.begin(request()).switching().hear(BETA, InboundFinished(port_id=PORT, epoch=2))
    talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=False))
    talk.hear(BETA, VmProvisioned(port_id=PORT)).hear(ALPHA, VmDisconnected(port_id=PORT))
    completed = talk.sent(PortCompleted, to=ACME)
    assert {completed.memory_bytes, completed.disk_bytes, completed.wire_bytes, completed.seeded_bytes} == {0}
    assert len(completed.warnings) == 1
    assert talk.effect(RecordEnd).detail == f"served by beta, epoch 2; {completed.warnings[0]}"


class TestContradiction:
    """A side's word against the abort: nobody is told that the VM runs at the donor before both sides agree."""

    @staticmethod
    def _reverted() -> Conversation:
        return Conversation.begin(request()).given_back()

    def test_guest_that_left_after_the_vm_was_given_back(self) -> None:
        """The donor says that the guest left: an alarm, and both sides are asked again, also past the deadline."""
        talk = self._reverted().hear(BETA, transfer_aborted(Side.INBOUND)).hear(ALPHA, outbound_finished())
        asked = ("donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer")
        talk.expect(P.ABORTING, "alarm: words_contradict", *asked)
        for _ in range(3):
            talk.deadline().expect(P.ABORTING, "alarm: words_contradict", *asked)
            assert talk.effect(Alarm).detail == talk.state.contradiction
            assert talk.state.deadline == talk.now + talk.timing.aborting
        talk.hear(BETA, transfer_aborted(Side.INBOUND)).expect(P.ABORTING)
        talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND, guest_running=False)).expect(P.ABORTING)
        talk.wake().expect(P.ABORTING, "donor.alpha <- AbortTransfer")
        talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND))
        assert talk.state.phase is P.FAILED
        assert "alpha says that the guest left" in talk.sent(PortFailed, to=ACME).detail

    def test_an_answer_that_says_the_same_is_no_new_question(self) -> None:
        """A donor whose transfer has ended answers each question so; the next one waits for the timer."""
        talk = self._reverted().hear(ALPHA, outbound_finished())
        talk.hear(BETA, transfer_aborted(Side.INBOUND))
        for _ in range(3):
            talk.hear(ALPHA, outbound_finished()).expect(P.ABORTING)
        talk.wake().expect(P.ABORTING, "donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer")

    def test_both_sides_are_asked_after_growing_pauses(self) -> None:
        """A contradiction begins from the start, however often was asked before."""
        talk = self._reverted()
        assert talk.pauses_s(2) == [2, 4]
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        assert talk.effect(Alarm).detail == "beta says that the guest runs there, but the VM is alpha's by epoch 3"
        assert talk.pauses_s(3) == [2, 4, 8]

    def test_word_that_is_repeated_counts_again(self) -> None:
        """What the sides confirmed before it does not end the port; nobody is asked at once."""
        talk = self._reverted().hear(ALPHA, outbound_finished()).hear(BETA, transfer_aborted(Side.INBOUND))
        assert talk.state.aborted == (Side.INBOUND,)
        talk.hear(ALPHA, outbound_finished()).expect(P.ABORTING)
        assert not talk.state.aborted

    def test_guest_that_runs_at_the_recipient_after_all(self) -> None:
        """It must be gone there before the port ends."""
        talk = self._reverted().hear(ALPHA, transfer_aborted(Side.OUTBOUND))
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND)).expect(P.ABORTING)
        talk.hear(BETA, transfer_aborted(Side.INBOUND, guest_running=True)).expect(P.ABORTING)
        talk.hear(BETA, transfer_aborted(Side.INBOUND))
        assert talk.state.phase is P.FAILED

    @pytest.mark.parametrize("upto", ["transferring", "switching"])
    def test_after_the_end(self, upto: str) -> None:
        """The end stands, and an operator is called."""
        talk: Conversation = getattr(Conversation.begin(request()), upto)()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
        talk.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=False))
        talk.hear(BETA, transfer_aborted(Side.INBOUND)).hear(ALPHA, transfer_aborted(Side.OUTBOUND))
        ended = talk.state
        assert ended.phase is P.FAILED
        talk.hear(ALPHA, outbound_finished()).expect(P.FAILED, "alarm: words_contradict")
        talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2)).expect(P.FAILED, "alarm: words_contradict")
        assert talk.state == ended


def test_abort_carries_the_newest_epoch() -> None:
    """A node that has heard of a newer one knows that the ledger was restored, and does not believe the abort."""
    talk = Conversation.begin(request()).transferring().hear(ACME, CancelPort(port_id=PORT))
    assert talk.sent(AbortTransfer, to=ALPHA).epoch == 1
    talk = Conversation.begin(request()).given_back()
    assert talk.sent(AbortTransfer, to=ALPHA).epoch == 3


class TestLongText:
    """Text from a provider is clipped; `Conversation` saves each state and reads it back."""

    def test_both_reasons(self) -> None:
        """The second report does not make the failure longer than a message."""
        talk = Conversation.begin(request()).transferring()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False, detail=LONG))
        talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True, detail=LONG)).expect(P.ABORTING)
        assert talk.state.failure is not None
        assert len(talk.state.failure.detail) == MAX_TEXT

    def test_reason_of_the_abort(self) -> None:
        """AbortTransfer carries the failure's detail, which may be as long as a message allows."""
        talk = Conversation.begin(request()).transferring()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False, detail=LONG))
        assert len(talk.sent(AbortTransfer, to=ALPHA).reason) == MAX_TEXT

    def test_failure_with_warnings(self) -> None:
        """The tenant is told the failure and the warnings in one text."""
        talk = Conversation.begin(request()).transferring()
        talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False, detail=LONG))
        left = transfer_aborted(Side.INBOUND).model_copy(update={"left_overs": ("a" * 4000, "b" * 4000)})
        talk.hear(BETA, left).expect(P.ABORTING)
        assert [len(warning) for warning in talk.state.warnings] == [MAX_TEXT]
        talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND))
        assert len(talk.sent(PortFailed, to=ACME).detail) == MAX_TEXT

    def test_reason_of_the_cancel(self) -> None:
        """The tenant's own reason is kept as the failure's detail."""
        talk = Conversation.begin(request()).transferring().hear(ACME, CancelPort(port_id=PORT, reason=LONG))
        assert talk.state.failure is not None
        assert len(talk.state.failure.detail) == MAX_TEXT
