"""The switchover: both words, the commit, its repetition, its refusal."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.broker.saga import CommitEpoch, Verdict
from shared.messages.porting import (
    GuestPaused,
    InboundOpened,
    OutboundStarted,
    QuerySwitchover,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
)
from shared.messages.service_change import CancelPort, PortPhase
from shared.parties import node
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    NOW,
    PORT,
    VM,
    Conversation,
    guest_paused,
    request,
    request_switchover,
)

P = PortPhase
COMMITTED = (
    "commit epoch 2 to beta",
    "node.beta.beta-1 <- SwitchoverGranted",
    "node.alpha.alpha-1 <- SwitchoverState",
)


class TestSwitchover:
    """The commit, its repetition, its refusal, and the only way back."""

    def test_both_words_may_overtake_the_start(self) -> None:
        """The nodes' words have one hop, the report of the start two: switchover is granted while STARTING."""
        talk = Conversation.begin(request()).fixed().lanes_opened()
        talk.hear(BETA, InboundOpened(port_id=PORT)).hear(BETA_NODE, request_switchover()).expect(P.STARTING)
        talk.hear(ALPHA_NODE, guest_paused()).expect(P.SWITCHING, *COMMITTED)
        talk.hear(ALPHA, OutboundStarted(port_id=PORT)).expect(P.SWITCHING)

    @pytest.mark.parametrize("paused_first", [True, False])
    def test_commit_needs_both_words(self, paused_first: bool) -> None:  # noqa: FBT001  # pytest passes it
        """The donor's node has paused the guest, and the recipient's node asks: whichever comes second commits."""
        talk = Conversation.begin(request()).transferring()
        if paused_first:
            talk.hear(ALPHA_NODE, guest_paused()).expect(P.TRANSFERRING, "node.alpha.alpha-1 <- SwitchoverState")
            assert not talk.sent(SwitchoverState).committed
            talk.hear(BETA_NODE, request_switchover())
        else:
            talk.hear(BETA_NODE, request_switchover()).expect(P.TRANSFERRING)
            talk.hear(ALPHA_NODE, guest_paused())
        talk.expect(P.SWITCHING, *COMMITTED)

    def test_commit_is_the_recipients_in_the_ledger(self) -> None:
        """This VM, the agreed epoch, and the node that it joins."""
        talk = Conversation.begin(request()).switching()
        assert talk.effect(CommitEpoch) == CommitEpoch(VM, 2, "beta", "beta-1")

    @pytest.mark.parametrize("upto", ["fixed", "preparing"])
    def test_request_before_the_transfer_is_denied(self, upto: str) -> None:
        """No node can hold a Finish yet."""
        talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1))).fixed()
        if upto == "preparing":
            talk.wake()
        phase = talk.state.phase
        talk.hear(BETA_NODE, request_switchover()).expect(phase, "node.beta.beta-1 <- SwitchoverDenied")
        assert talk.sent(SwitchoverDenied).code == "not_now"

    def test_only_repetitions_are_quiet(self) -> None:
        """The first request has a line in the record; a question of a node has none."""
        talk = Conversation.begin(request()).transferring().hear(BETA_NODE, request_switchover())
        assert talk.last is not None
        assert talk.last.quiet is False
        assert talk.hear(BETA_NODE, request_switchover()).last is not None
        assert talk.last.quiet is True
        talk.hear(BETA_NODE, QuerySwitchover(port_id=PORT))
        assert talk.last.quiet is True
        talk = Conversation.begin(request()).completed().hear(BETA_NODE, request_switchover())
        assert talk.last is not None
        assert talk.last.quiet is False

    def test_recipient_alone_takes_nothing(self) -> None:
        """However often the recipient's node asks, nothing is committed while the donor's guest may run."""
        talk = Conversation.begin(request()).transferring()
        for _ in range(3):
            talk.hear(BETA_NODE, request_switchover()).expect(P.TRANSFERRING)
        assert (talk.state.owner, talk.state.committed) == ("alpha", False)

    def test_donor_is_told_of_the_commit_at_once(self) -> None:
        """The step that commits also tells the donor's node who owns the VM, so that it need not ask."""
        talk = Conversation.begin(request()).switching()
        told = talk.sent(SwitchoverState, to=ALPHA_NODE)
        assert (told.committed, told.owner, told.epoch, told.arrived, told.ready) == (True, "beta", 2, False, False)

    @pytest.mark.parametrize("upto", ["transferring", "switching", "finishing", "completed"])
    def test_repeated_pause_is_answered(self, upto: str) -> None:
        """The node repeats itself until it hears the state; a repetition changes nothing and fills no record."""
        talk: Conversation = getattr(Conversation.begin(request()), upto)()
        talk.hear(ALPHA_NODE, guest_paused())
        before = talk.state
        talk.hear(ALPHA_NODE, guest_paused()).expect(before.phase, "node.alpha.alpha-1 <- SwitchoverState")
        assert talk.last is not None
        assert (talk.state, talk.last.quiet) == (before, True)
        assert talk.sent(SwitchoverState).committed == before.committed

    @pytest.mark.parametrize("upto", ["transferring", "switching", "completed"])
    @pytest.mark.parametrize("said", [guest_paused(3), guest_paused().model_copy(update={"vm_uuid": PORT})])
    def test_pause_that_was_not_agreed_is_answered_and_noted(self, upto: str, said: GuestPaused) -> None:
        """Another epoch or VM does not count; the node is told the state all the same, and the record has a line."""
        talk: Conversation = getattr(Conversation.begin(request()), upto)()
        phase = talk.state.phase
        talk.hear(ALPHA_NODE, said).expect(phase, "node.alpha.alpha-1 <- SwitchoverState")
        assert talk.last is not None
        assert talk.last.note.startswith("not agreed")
        assert not talk.last.quiet
        if upto == "transferring":
            talk.hear(BETA_NODE, request_switchover()).expect(P.TRANSFERRING)

    def test_only_the_agreed_node_can_pause(self) -> None:
        """The recipient cannot say both words, nor can another node of the donor."""
        talk = Conversation.begin(request()).transferring().hear(BETA_NODE, request_switchover())
        for stranger in (node("alpha", "alpha-2"), BETA_NODE, ALPHA):
            talk.hear(stranger, guest_paused()).expect(P.TRANSFERRING)
            assert talk.last is not None
            assert talk.last.verdict is Verdict.REFUSED

    def test_waiting_request_is_denied_at_the_abort(self) -> None:
        """A node that asked and waits is answered when the port is aborted, not only when it asks again."""
        talk = Conversation.begin(request()).transferring().hear(BETA_NODE, request_switchover())
        talk.hear(ACME, CancelPort(port_id=PORT))
        talk.expect(
            P.ABORTING,
            "node.beta.beta-1 <- SwitchoverDenied",
            "donor.alpha <- AbortTransfer",
            "recipient.beta <- AbortTransfer",
        )
        assert talk.sent(SwitchoverDenied).code == "cancelled"
        talk.hear(ALPHA_NODE, guest_paused()).expect(P.ABORTING, "node.alpha.alpha-1 <- SwitchoverState")
        assert not talk.state.committed

    def test_ready(self) -> None:
        """Nodes are told whether the broker could commit now: in the transfer, in the window, before the deadline."""
        opens, deadline = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
        talk = Conversation.begin(request(window_start=opens, deadline=deadline, seed=True)).transferring()

        def ready() -> bool:
            return talk.hear(ALPHA_NODE, QuerySwitchover(port_id=PORT)).sent(SwitchoverState).ready

        assert not ready()
        talk.pass_time(timedelta(hours=1))
        assert ready()
        talk.hear(ALPHA_NODE, guest_paused())
        assert ready()
        talk.pass_time(timedelta(hours=1))
        assert not ready()
        assert not talk.hear(ALPHA_NODE, guest_paused()).sent(SwitchoverState).ready
        talk.now = NOW + timedelta(minutes=90)
        talk.hear(BETA_NODE, request_switchover()).expect(P.SWITCHING, *COMMITTED)
        assert not ready()

    def test_granted_epoch_is_the_agreed_one(self) -> None:
        """The grant names the epoch of the agreement that everybody holds."""
        talk = Conversation.begin(request()).switching()
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
        talk.pass_time(timedelta(minutes=58)).hear(ALPHA_NODE, guest_paused())
        talk.expect(P.TRANSFERRING, "node.alpha.alpha-1 <- SwitchoverState")
        talk.hear(BETA_NODE, request_switchover())
        talk.expect(P.TRANSFERRING, "node.beta.beta-1 <- SwitchoverDenied")
        denied = talk.sent(SwitchoverDenied)
        assert denied.code == "window_closed"
        talk.pass_time(timedelta(minutes=1)).hear(BETA_NODE, request_switchover()).expect(P.TRANSFERRING)
        talk.hear(ALPHA_NODE, guest_paused()).expect(P.SWITCHING, *COMMITTED)

    def test_other_node_cannot_ask(self) -> None:
        """Only the agreed node may ask for the VM."""
        talk = Conversation.begin(request()).transferring()
        for stranger in (node("beta", "beta-2"), ALPHA_NODE, BETA):
            talk.hear(stranger, request_switchover()).expect(P.TRANSFERRING)
            assert talk.last is not None
            assert talk.last.verdict is Verdict.REFUSED

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
