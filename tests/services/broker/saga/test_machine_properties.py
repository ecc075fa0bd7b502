"""The saga's invariants hold for any message from any party, in any order, repeated, lost or late, at any time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.broker.saga import (
    CloseLanes,
    CommitEpoch,
    DeadlinePassed,
    Event,
    Heard,
    LanesOpened,
    OpenLanes,
    Owner,
    RecordEnd,
    SagaState,
    Send,
    Settled,
    Timing,
    WakeUp,
    begin,
    step,
)
from services.broker.saga.table import SPEAKERS
from shared.messages import Message
from shared.messages.approval import DonorApproved, DonorRejected
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    GuestPaused,
    InboundFinished,
    InboundOpened,
    OutboundFinished,
    OutboundStarted,
    QuerySwitchover,
    QuoteDeclined,
    QuoteOffered,
    ReleaseReservation,
    RequestSwitchover,
    ReservationRefused,
    ReservationRequested,
    Side,
    SwitchoverGranted,
    TransferFailed,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import (
    CancelPort,
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortPhase,
    PortPlanned,
    PortRefused,
)
from shared.parties import Party, node, tenant
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    GAMMA,
    NOW,
    PORT,
    guest_paused,
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

PARTIES = (ACME, tenant("globex"), ALPHA, BETA, GAMMA, ALPHA_NODE, BETA_NODE)
SAYINGS: tuple[Message, ...] = (
    CancelPort(port_id=PORT),
    DonorApproved(port_id=PORT, identity=identity()),
    DonorApproved(port_id=PORT, identity=identity(PORT)),
    DonorRejected(port_id=PORT, refusals=(refusal(),)),
    QuoteOffered(port_id=PORT, quote=quote("beta", price="5.00")),
    QuoteOffered(port_id=PORT, quote=quote("gamma", price="6.00")),
    QuoteDeclined(port_id=PORT, refusals=(refusal(),)),
    reserved("beta"),
    reserved("gamma", reserved_until=NOW + timedelta(days=3)),
    ReservationRefused(port_id=PORT, refusals=(refusal(),)),
    InboundOpened(port_id=PORT),
    OutboundStarted(port_id=PORT),
    request_switchover(),
    request_switchover(3),
    guest_paused(),
    guest_paused(3),
    QuerySwitchover(port_id=PORT),
    InboundFinished(port_id=PORT, epoch=2),
    outbound_finished(),
    *(transfer_failed(side, guest_running=running) for side in Side for running in (True, False)),
    *(transfer_aborted(side, guest_running=running) for side in Side for running in (True, False)),
    *(CompletionFailed(port_id=PORT, side=side, code="later", detail="busy") for side in Side),
    VmDisconnected(port_id=PORT),
    VmProvisioned(port_id=PORT),
    DisksErased(port_id=PORT, erased_bytes=1),
)
USEFUL: dict[PortPhase, tuple[tuple[Party, Message], ...]] = {
    P.APPROVAL: ((ALPHA, DonorApproved(port_id=PORT, identity=identity())),),
    P.QUOTING: (
        (BETA, QuoteOffered(port_id=PORT, quote=quote("beta", price="5.00", valid_until=NOW + timedelta(days=9)))),
        (GAMMA, QuoteDeclined(port_id=PORT, refusals=(refusal(),))),
    ),
    P.RESERVING: ((BETA, reserved("beta", reserved_until=NOW + timedelta(days=9))),),
    P.PREPARING: ((BETA, InboundOpened(port_id=PORT)),),
    P.STARTING: ((ALPHA, OutboundStarted(port_id=PORT)),),
    P.TRANSFERRING: ((ALPHA_NODE, guest_paused()), (BETA_NODE, request_switchover())),
    P.SWITCHING: ((BETA, InboundFinished(port_id=PORT, epoch=2)), (ALPHA, outbound_finished())),
    P.RESOLVING: ((BETA, InboundFinished(port_id=PORT, epoch=2)),),
    P.FINISHING: ((BETA, VmProvisioned(port_id=PORT)), (ALPHA, VmDisconnected(port_id=PORT))),
    P.ABORTING: ((ALPHA, transfer_aborted(Side.OUTBOUND)), (BETA, transfer_aborted(Side.INBOUND))),
}
END_NEWS = (PortCompleted, PortFailed, PortCancelled, PortRefused, PortPlanned)


class SagaMachine(RuleBasedStateMachine):
    """One port, and what all parties have seen of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.timing = Timing()
        self.ownership: list[tuple[int, str]] = [(1, "alpha")]
        self.holding: set[Party] = set()
        self.lanes = 0
        self.ends: list[RecordEnd] = []
        self.end_news: list[Message] = []
        self.abort_decided = False
        self.words: set[str] = set()
        """What the parties have said that the switchover and the disconnection need."""

    @initialize(
        window=st.sampled_from([None, timedelta(hours=1)]),
        deadline=st.booleans(),
        seed=st.booleans(),
        dry_run=st.sampled_from([False, False, False, True]),
        smooth=st.integers(0, 14),
    )
    def begin(self, window: timedelta | None, deadline: bool, seed: bool, dry_run: bool, smooth: int) -> None:  # noqa: FBT001  # hypothesis
        """A request, and the first events of the good path, so that the later phases are reached often."""
        limits: dict[str, Any] = {
            "window_start": NOW + window if window else None,
            "deadline": NOW + timedelta(hours=3) if deadline else None,
            "seed": seed and window is not None,
        }
        decision = begin(
            request("best", dry_run=dry_run, **limits),
            tenant_name="acme",
            vm_name="web",
            epoch=1,
            candidates=("beta", "gamma"),
            now=self.now,
            timing=self.timing,
        )
        self.state = decision.state
        for _ in range(smooth):
            self.go_on()

    def go_on(self) -> None:
        """One event that the phase waits for."""
        if self.state.phase is P.SCHEDULED and self.state.wake_at is not None:
            self.now = max(self.now, self.state.wake_at)
            self.take(WakeUp())
            return
        if self.state.phase is P.TRANSFERRING and self.state.agreement is not None:
            self.now = max(self.now, self.state.agreement.window_start)
        for sender, message in USEFUL.get(self.state.phase, ()):
            before = self.state
            self.take(Heard(sender, message))
            if self.state != before:
                return

    def take(self, event: Event) -> None:
        before = self.state
        if isinstance(event, Heard):
            self.listen(before, event)
        decision = step(before, event, self.now, self.timing)
        for effect in decision.effects:
            self.see(before, decision.state, effect)
        if before.ended:
            assert decision.state == before, "an end is an end"
        if decision.state.phase is P.ABORTING:
            self.abort_decided = True
        self.state = SagaState.model_validate_json(decision.state.model_dump_json())
        assert self.state == decision.state, "nothing is lost by saving"

    def listen(self, state: SagaState, heard: Heard[Message]) -> None:
        """Note the words that a commit and a disconnection need, if the right party says them."""
        message = heard.message
        if heard.sender not in SPEAKERS[type(message)](state):
            return
        if isinstance(message, GuestPaused | RequestSwitchover) and message.epoch == 2:
            self.words.add(type(message).__name__)
        elif isinstance(message, OutboundFinished) or (
            isinstance(message, TransferFailed) and heard.sender == ALPHA and not message.guest_running
        ):
            self.words.add("let go")
        elif isinstance(message, VmProvisioned):
            self.words.add("provisioned")

    def see(self, before: SagaState, after: SagaState, effect: object) -> None:
        match effect:
            case CommitEpoch():
                assert effect.epoch == self.ownership[-1][0] + 1, "epochs grow one by one"
                assert effect.owner != self.ownership[-1][1], "an epoch changes the owner"
                self.ownership.append((effect.epoch, effect.owner))
                if effect.owner == "beta" and after.settled is None:
                    assert not self.abort_decided, "an abort that was decided stays so"
                    assert {"GuestPaused", "RequestSwitchover"} <= self.words, "both nodes have said their word"
                opens = self.state.request.limits.window_start or NOW
                assert effect.owner == "alpha" or self.now >= opens - self.timing.clock_difference, "only in the window"
            case OpenLanes():
                self.lanes += 1
            case CloseLanes():
                self.lanes -= 1
            case RecordEnd():
                self.ends.append(effect)
            case Send():
                self.see_message(before, after, effect)

    def see_message(self, before: SagaState, after: SagaState, send: Send) -> None:
        match send.message:
            case SwitchoverGranted():
                assert after.committed
                assert before.agreement is not None
                assert send.to == node("beta", before.agreement.recipient_node), "granted to who asked"
                assert (send.message.epoch, "beta") == self.ownership[-1], "granted is what was committed"
            case AbortTransfer():
                assert not after.committed, "no abort after the commit"
            case DisconnectVm():
                assert "provisioned" in self.words, "the recipient has it for good"
                assert "let go" in self.words or after.settled is not None, (
                    "the donor has let go, or an operator says so"
                )
            case ReservationRequested():
                self.holding.add(send.to)
            case ReleaseReservation():
                self.holding.discard(send.to)
            case PortCompleted():
                self.holding.discard(send.to)
            case PortCancelled():
                assert not before.committed, "after the commit nothing is cancelled"
        if isinstance(send.message, END_NEWS) and send.to == ACME:
            self.end_news.append(send.message)

    @rule(sender=st.sampled_from(PARTIES), saying=st.sampled_from(SAYINGS))
    def anybody_says_anything(self, sender: Party, saying: Message) -> None:
        self.take(Heard(sender, saying))

    @rule(saying=st.sampled_from(SAYINGS), data=st.data())
    def a_party_says_something_of_its_own(self, saying: Message, data: st.DataObject) -> None:
        speakers = [party for party in SPEAKERS[type(saying)](self.state) if party is not None]
        if speakers:
            self.take(Heard(data.draw(st.sampled_from(speakers)), saying))

    @precondition(lambda self: self.state.phase in USEFUL)
    @rule(data=st.data())
    def somebody_says_what_is_expected(self, data: st.DataObject) -> None:
        self.take(Heard(*data.draw(st.sampled_from(USEFUL[self.state.phase]))))

    @precondition(lambda self: self.state.phase is P.PREPARING)
    @rule()
    def lanes_are_ready(self) -> None:
        self.take(LanesOpened())

    @rule(early=st.booleans(), heard=st.booleans())
    def deadline(self, early: bool, heard: bool) -> None:  # noqa: FBT001  # hypothesis
        if self.state.deadline is not None and not early:
            self.now = max(self.now, self.state.deadline)
        self.take(DeadlinePassed(self.now - timedelta(seconds=1) if heard else None))

    @rule(early=st.booleans())
    def wake_up(self, early: bool) -> None:  # noqa: FBT001  # hypothesis
        if self.state.wake_at is not None and not early:
            self.now = max(self.now, self.state.wake_at)
        self.take(WakeUp())

    @rule(owner=st.sampled_from(list(Owner)))
    def operator_settles(self, owner: Owner) -> None:
        before = self.state
        self.take(Settled(owner=owner, by="root@broker-1", evidence="looked"))
        assert self.state == before or self.state.settled is not None, "a decision stands in the state"

    @rule(seconds=st.sampled_from([1, 20, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def there_is_one_owner(self) -> None:
        assert (self.state.epoch, self.state.owner) == self.ownership[-1]
        assert self.state.committed == (self.state.owner == "beta")
        assert len({epoch for epoch, _ in self.ownership}) == len(self.ownership)

    @invariant()
    def every_wait_ends(self) -> None:
        assert self.state.ended == (self.state.deadline is None)
        if self.state.ended:
            assert self.state.wake_at is None

    @invariant()
    def lanes_are_balanced(self) -> None:
        assert self.lanes == int(self.state.lanes_open)

    @invariant()
    def an_end_leaves_nothing(self) -> None:
        if not self.state.ended:
            assert not self.ends
            assert not self.end_news
            return
        assert len(self.ends) == len(self.end_news) == 1
        assert self.lanes == 0
        assert not self.holding, "every reservation is released, or has become the VM"
        owner = "beta" if self.state.phase is P.COMPLETED else "alpha"
        assert self.state.owner == owner, "the VM is where the end says"


TestSagaMachine = SagaMachine.TestCase
TestSagaMachine.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
