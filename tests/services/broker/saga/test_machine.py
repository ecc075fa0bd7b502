"""One step: who may say what, what fits the phase, and the tenant's cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from services.broker.saga import TABLE, DeadlinePassed, Decision, Heard, Moment, SagaBug, Send, Verdict, step
from services.broker.saga.table import on
from shared.messages.approval import DonorApproved
from shared.messages.porting import InboundOpened, OutboundStarted, Side
from shared.messages.service_change import CancelPort, CancelRefused, PortAccepted, PortPhase
from shared.parties import donor, recipient, tenant
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    NOW,
    PORT,
    Conversation,
    identity,
    request,
    transfer_aborted,
)

P = PortPhase


class TestStep:
    """What all handlers have in common."""

    def test_commands_perish_with_their_phase(self) -> None:
        """A command is useless after its phase's deadline; a message about the end never is."""
        talk = Conversation.begin(request()).fixed().lanes_opened()
        assert talk.last is not None
        (opening,) = talk.last.effects
        assert isinstance(opening, Send)
        assert opening.deadline == talk.state.deadline

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

    def test_lanes_that_open_late_start_nothing(self) -> None:
        """The port is further on, or over."""
        for upto in ("transferring", "completed"):
            talk: Conversation = getattr(Conversation.begin(request()), upto)()
            before = talk.state
            talk.lanes_opened()
            assert talk.last is not None
            assert (talk.last.verdict, talk.state) == (Verdict.IGNORED, before)


class TestCancel:
    """Cancel works in every phase before switchover, and is too late after it."""

    def test_before_anything_moves(self) -> None:
        """The port ends at once, and every provider that was asked is released."""
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
    def test_while_transfers_exist(self, inbound_opened: bool) -> None:  # noqa: FBT001  # pytest passes it
        """Both transfers are stopped first."""
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
        answer = talk.sent(CancelRefused)
        assert (answer.code, talk.state) == (code, before)

    def test_strangers_learn_nothing(self) -> None:
        """Another tenant's cancel is answered as if the port did not exist."""
        talk = Conversation.begin(request()).transferring().hear(tenant("globex"), CancelPort(port_id=PORT))
        talk.expect(P.TRANSFERRING, "tenant.globex <- CancelRefused")
        answer = talk.sent(CancelRefused)
        assert answer.code == "unknown_port"


class TestBugs:
    """A handler that leaves the table raises, so that its step is not taken."""

    @staticmethod
    def _answer(monkeypatch: pytest.MonkeyPatch, handler: Callable[[Moment, Heard[OutboundStarted]], Decision]) -> None:
        row = replace(TABLE[P.STARTING], hears=(on(OutboundStarted, handler, to=(P.TRANSFERRING, P.SCHEDULED)),))
        monkeypatch.setitem(TABLE, P.STARTING, row)

    @staticmethod
    def _starting() -> Conversation:
        return Conversation.begin(request()).fixed().lanes_opened().hear(BETA, InboundOpened(port_id=PORT))

    def test_edge_that_is_not_in_the_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A phase is entered only where the table says so."""
        self._answer(monkeypatch, lambda at, _: at.go(P.COMPLETED))
        talk = self._starting()
        with pytest.raises(SagaBug, match="no edge from starting to completed"):
            talk.hear(ALPHA, OutboundStarted(port_id=PORT))

    def test_older_epoch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Epochs never go back."""
        talk = self._starting()
        talk.state = talk.state.with_(epoch=2)
        self._answer(monkeypatch, lambda at, _: at.stay(epoch=1))
        with pytest.raises(SagaBug, match="epoch 1 is older than 2"):
            talk.hear(ALPHA, OutboundStarted(port_id=PORT))

    def test_phase_without_a_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A phase that waits has a deadline."""
        monkeypatch.setitem(TABLE, P.TRANSFERRING, replace(TABLE[P.TRANSFERRING], limit=None))
        talk = self._starting()
        with pytest.raises(SagaBug, match="transferring has no deadline"):
            talk.hear(ALPHA, OutboundStarted(port_id=PORT))

    def test_message_of_another_conversation(self) -> None:
        """What is not about a port's saga is refused, and changes nothing."""
        talk = Conversation.begin(request())
        talk.hear(ALPHA, PortAccepted(port_id=PORT)).expect(P.APPROVAL)
        assert talk.last is not None
        assert talk.last.verdict is Verdict.REFUSED
