"""The saga's table: for each phase what is understood, how long it may take, what happens then, and what a cancel
does. Pure.

Theory
------
A port is a conversation between parties that may be late, silent, restarted or confused. The saga decides what each
thing that they say means *now*. It is a function: state and event in, new state and effects out. Rules that the
table keeps:

1. **One owner.** The VM belongs to the donor until CommitEpoch, to the recipient after it; CommitEpoch stands on two
edges only,
   TRANSFERRING (or STARTING) to SWITCHING, and back to ABORTING when the recipient itself says that it has no guest.
2. **No and yes exclude each other.** Whoever leads to ABORTING has decided that there is no switchover: a request
that comes
   later is denied. Whoever leads to SWITCHING has decided that there is no abort: a cancel that comes later is too
   late.
3. **Every wait ends.** Each phase that is no end has a deadline and a handler for it. Before the commit that handler
gives up,
   and the VM stays; after the commit it asks again and calls an operator, because only going forward is right.
4. **Nothing surprises.** What a phase does not understand is recorded and ignored; a duplicate finds the state that
it made and
   changes nothing; who speaks for somebody else is recorded and refused. No message can raise an error here.
5. **Nothing is left.** Each way into an end lets go of all reservations and closes the lanes.

`step` adds what all handlers have in common: who may say what, the new phase's deadline, and the check that an edge
is drawn here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.broker.saga import choosing, ending, moving, switching
from services.broker.saga.decision import Decision, Moment, Timing, Verdict
from services.broker.saga.effects import Effect, Send
from services.broker.saga.events import DeadlinePassed, Event, Heard, LanesOpened, WakeUp
from services.broker.saga.state import ENDS, SagaState
from shared.errors import VmportError
from shared.messages import Message
from shared.messages.approval import DonorApproved, DonorRejected
from shared.messages.porting import (
    CompletionFailed,
    DisksErased,
    InboundFinished,
    InboundOpened,
    OutboundFinished,
    OutboundStarted,
    QuerySwitchover,
    QuoteDeclined,
    QuoteOffered,
    RequestSwitchover,
    ReservationRefused,
    Reserved,
    TransferAborted,
    TransferFailed,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import CancelPort, CancelRefused, PortPhase
from shared.parties import Party, recipient

P = PortPhase
Answer = Callable[[Moment, Heard], Decision]
Timeout = Callable[[Moment], Decision]
Limit = Callable[[Moment], datetime]


class SagaBug(VmportError):
    """A handler did what the table does not allow; the step is not taken."""

    code = "saga_bug"


@dataclass(frozen=True, slots=True)
class On:
    """One line of a phase: what answers a message, and where that can lead (beside staying)."""

    do: Answer
    to: tuple[PortPhase, ...] = ()


@dataclass(frozen=True, slots=True)
class Then:
    """What a phase does when a time has come, and where that can lead (beside staying)."""

    do: Timeout
    to: tuple[PortPhase, ...] = ()


class Cancel(StrEnum):
    """What the tenant's cancel does in a phase."""

    ENDS = "ends"
    ABORTS = "aborts"
    UNDER_WAY = "under_way"
    TOO_LATE = "too_late"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Phase:
    """One row of the table."""

    hears: Mapping[type[Message], On]
    cancel: Cancel
    limit: Limit | None = None
    limit_text: str = ""
    on_deadline: Then | None = None
    on_wake: Then | None = None
    on_lanes: Then | None = None


# Who may say what. A party that is not named by the port is not heard.

_Speakers = Callable[[SagaState], tuple[Party | None, ...]]


def _donor(state: SagaState) -> tuple[Party | None, ...]:
    return (state.donor_party,)


def _recipient(state: SagaState) -> tuple[Party | None, ...]:
    return (state.recipient_party,)


def _candidates(state: SagaState) -> tuple[Party | None, ...]:
    return tuple(recipient(name) for name in state.candidates)


def _agents(state: SagaState) -> tuple[Party | None, ...]:
    return (state.donor_party, state.recipient_party)


def _recipient_node(state: SagaState) -> tuple[Party | None, ...]:
    return (state.recipient_node,)


def _nodes(state: SagaState) -> tuple[Party | None, ...]:
    return (state.donor_node, state.recipient_node)


def _tenant(state: SagaState) -> tuple[Party | None, ...]:
    return (state.tenant_party,)


SPEAKERS: Mapping[type[Message], _Speakers] = {
    DonorApproved: _donor,
    DonorRejected: _donor,
    QuoteOffered: _candidates,
    QuoteDeclined: _candidates,
    Reserved: _candidates,
    ReservationRefused: _candidates,
    InboundOpened: _recipient,
    OutboundStarted: _donor,
    RequestSwitchover: _recipient_node,
    QuerySwitchover: _nodes,
    InboundFinished: _recipient,
    OutboundFinished: _donor,
    TransferFailed: _agents,
    TransferAborted: _agents,
    VmProvisioned: _recipient,
    VmDisconnected: _donor,
    CompletionFailed: _agents,
    DisksErased: _donor,
    CancelPort: _tenant,
}


# Deadlines


def _after(name: str) -> Limit:
    def limit(at: Moment) -> datetime:
        duration: timedelta = getattr(at.timing, name)
        return at.now + duration

    return limit


def _within_port(name: str) -> Limit:
    """The phase's own time, but never past the port's deadline."""
    own = _after(name)

    def limit(at: Moment) -> datetime:
        return min(own(at), _port_deadline(at))

    return limit


def _port_deadline(at: Moment) -> datetime:
    if at.state.agreement is None:
        raise SagaBug(f"{at.state.phase} needs an agreement")
    return at.state.agreement.deadline


def transfer_deadline(at: Moment) -> Decision:
    """The port's own deadline, or the donor's node is silent; while it reports, the wait goes on."""
    heard = max(at.state.phase_since, at.last_heard or at.state.phase_since)
    if heard + at.timing.silence > at.now and at.now < _port_deadline(at):
        until = min(heard + at.timing.silence, _port_deadline(at))
        return at.stay(note="progress is being made", deadline=until)
    seconds = at.timing.silence.total_seconds()
    return moving.late_or("donor_node_silent", f"no progress was reported for {seconds:.0f} s", at)


# The table

_ANYWHERE: Mapping[type[Message], On] = {
    QuerySwitchover: On(switching.tell_owner),
    RequestSwitchover: On(switching.deny_switchover),
    Reserved: On(choosing.reserved_too_late),
}

_BEFORE_COMMIT: Mapping[type[Message], On] = {TransferFailed: On(moving.transfer_failed, to=(P.ABORTING,))}

TABLE: Mapping[PortPhase, Phase] = {
    P.APPROVAL: Phase(
        hears={
            DonorApproved: On(choosing.donor_approved, to=(P.QUOTING, P.REFUSED, P.FAILED)),
            DonorRejected: On(choosing.donor_rejected, to=(P.REFUSED,)),
        },
        limit=_after("approval"),
        limit_text="timing.approval_s",
        on_deadline=Then(choosing.donor_silent, to=(P.FAILED,)),
        cancel=Cancel.ENDS,
    ),
    P.QUOTING: Phase(
        hears={
            QuoteOffered: On(choosing.quote_offered, to=(P.RESERVING, P.REFUSED, P.PLANNED)),
            QuoteDeclined: On(choosing.quote_declined, to=(P.RESERVING, P.REFUSED, P.PLANNED)),
        },
        limit=_after("quoting"),
        limit_text="timing.quoting_s",
        on_deadline=Then(choosing.quoting_deadline, to=(P.RESERVING, P.REFUSED, P.PLANNED)),
        cancel=Cancel.ENDS,
    ),
    P.RESERVING: Phase(
        hears={
            Reserved: On(choosing.reserved, to=(P.SCHEDULED, P.PREPARING, P.REFUSED, P.FAILED)),
            ReservationRefused: On(choosing.reservation_refused, to=(P.REFUSED,)),
        },
        limit=_after("reserving"),
        limit_text="timing.reserving_s, for each recipient tried",
        on_deadline=Then(choosing.reserving_deadline, to=(P.REFUSED,)),
        cancel=Cancel.ENDS,
    ),
    P.SCHEDULED: Phase(
        hears={},
        limit=_port_deadline,
        limit_text="the port's deadline",
        on_deadline=Then(moving.window_missed, to=(P.FAILED,)),
        on_wake=Then(moving.open_window, to=(P.PREPARING, P.FAILED)),
        cancel=Cancel.ENDS,
    ),
    P.PREPARING: Phase(
        hears={InboundOpened: On(moving.inbound_opened, to=(P.STARTING,)), **_BEFORE_COMMIT},
        limit=_within_port("preparing"),
        limit_text="timing.preparing_s, at most the port's deadline",
        on_deadline=Then(moving.preparing_deadline, to=(P.ABORTING,)),
        on_lanes=Then(moving.lanes_opened),
        cancel=Cancel.ABORTS,
    ),
    P.STARTING: Phase(
        hears={
            OutboundStarted: On(moving.outbound_started, to=(P.TRANSFERRING,)),
            # Node to broker is one hop, node to agent to broker two: this may overtake OutboundStarted.
            RequestSwitchover: On(switching.grant_switchover, to=(P.SWITCHING,)),
            **_BEFORE_COMMIT,
        },
        limit=_within_port("starting"),
        limit_text="timing.starting_s, at most the port's deadline",
        on_deadline=Then(moving.starting_deadline, to=(P.ABORTING,)),
        cancel=Cancel.ABORTS,
    ),
    P.TRANSFERRING: Phase(
        hears={RequestSwitchover: On(switching.grant_switchover, to=(P.SWITCHING,)), **_BEFORE_COMMIT},
        limit=_within_port("silence"),
        limit_text="timing.silence_s after the last progress, at most the port's deadline",
        on_deadline=Then(transfer_deadline, to=(P.ABORTING,)),
        cancel=Cancel.ABORTS,
    ),
    P.SWITCHING: Phase(
        hears={
            RequestSwitchover: On(switching.grant_again),
            InboundFinished: On(switching.inbound_finished, to=(P.FINISHING,)),
            OutboundFinished: On(switching.outbound_finished, to=(P.FINISHING,)),
            TransferFailed: On(switching.failed_after_commit, to=(P.FINISHING, P.ABORTING)),
        },
        limit=_after("switching"),
        limit_text="timing.switching_s",
        on_deadline=Then(switching.switching_deadline, to=(P.RESOLVING, P.FINISHING)),
        cancel=Cancel.TOO_LATE,
    ),
    P.RESOLVING: Phase(
        hears={
            RequestSwitchover: On(switching.grant_again),
            InboundFinished: On(switching.inbound_finished, to=(P.FINISHING,)),
            OutboundFinished: On(switching.outbound_finished, to=(P.FINISHING,)),
            TransferFailed: On(switching.failed_after_commit, to=(P.FINISHING, P.ABORTING)),
        },
        limit=_after("resolving"),
        limit_text="timing.resolving_s, again and again",
        on_deadline=Then(switching.resolving_deadline, to=(P.FINISHING,)),
        on_wake=Then(switching.ask_arrival_again),
        cancel=Cancel.TOO_LATE,
    ),
    P.FINISHING: Phase(
        hears={
            RequestSwitchover: On(switching.grant_again),
            OutboundFinished: On(switching.late_figures),
            VmDisconnected: On(switching.vm_disconnected, to=(P.COMPLETED,)),
            VmProvisioned: On(switching.vm_provisioned, to=(P.COMPLETED,)),
            CompletionFailed: On(switching.completion_failed),
        },
        limit=_after("finishing"),
        limit_text="timing.finishing_s, again and again",
        on_deadline=Then(switching.finishing_deadline),
        on_wake=Then(switching.ask_completion_again),
        cancel=Cancel.TOO_LATE,
    ),
    P.ABORTING: Phase(
        hears={
            TransferAborted: On(ending.transfer_aborted, to=(P.FAILED, P.CANCELLED)),
            TransferFailed: On(ending.other_half_failed),
        },
        limit=_after("aborting"),
        limit_text="timing.aborting_s",
        on_deadline=Then(ending.abort_deadline, to=(P.FAILED, P.CANCELLED)),
        on_wake=Then(ending.ask_abort_again),
        cancel=Cancel.UNDER_WAY,
    ),
    P.COMPLETED: Phase(
        hears={DisksErased: On(switching.disks_erased), RequestSwitchover: On(switching.tell_owner)},
        cancel=Cancel.ENDED,
    ),
    P.FAILED: Phase(hears={}, cancel=Cancel.ENDED),
    P.CANCELLED: Phase(hears={}, cancel=Cancel.ENDED),
    P.REFUSED: Phase(hears={}, cancel=Cancel.ENDED),
    P.PLANNED: Phase(hears={}, cancel=Cancel.ENDED),
}

CANCEL_LEADS_TO: Mapping[Cancel, tuple[PortPhase, ...]] = {
    Cancel.ENDS: (P.CANCELLED,),
    Cancel.ABORTS: (P.ABORTING,),
    Cancel.UNDER_WAY: (),
    Cancel.TOO_LATE: (),
    Cancel.ENDED: (),
}


def step(state: SagaState, event: Event, now: datetime, timing: Timing) -> Decision:
    """One step of a port. Raises only `SagaBug`, when a handler leaves the table."""
    at = Moment(state, now, timing)
    row = TABLE[state.phase]
    match event:
        case Heard():
            decision, allowed = _hear(at, row, event)
        case DeadlinePassed():
            at = replace(at, last_heard=event.last_heard)
            decision, allowed = _timed(at, row.on_deadline, due=state.deadline, what="deadline")
        case WakeUp():
            decision, allowed = _timed(at, row.on_wake, due=state.wake_at, what="wake-up")
        case LanesOpened():
            decision, allowed = _timed(at, row.on_lanes, due=now, what="lanes")
    return _checked(at, decision, allowed)


def _hear(at: Moment, row: Phase, event: Heard) -> tuple[Decision, tuple[PortPhase, ...]]:
    kind = type(event.message)
    speakers = SPEAKERS.get(kind)
    if speakers is None:
        return Decision(at.state, (), f"{kind.__name__} is not part of a port's saga", Verdict.REFUSED), ()
    if event.sender not in speakers(at.state):
        return _not_a_speaker(at, event), ()
    if isinstance(event.message, CancelPort):
        return _cancel(at, row, event.message), CANCEL_LEADS_TO[row.cancel]
    line = row.hears.get(kind) or _ANYWHERE.get(kind)
    if line is None:
        return at.ignore(f"not expected while {at.state.phase}"), ()
    return line.do(at, event), line.to


def _not_a_speaker(at: Moment, event: Heard) -> Decision:
    effects: tuple[Effect, ...] = ()
    if isinstance(event.message, CancelPort):
        # A stranger learns nothing, not even that the port exists.
        refused = CancelRefused(port_id=at.state.port_id, code="unknown_port", detail="there is no such port of yours")
        effects = (Send(event.sender, refused),)
    note = f"{event.sender} has no say in this: {type(event.message).__name__} refused"
    return Decision(at.state, effects, note, Verdict.REFUSED)


def _cancel(at: Moment, row: Phase, message: CancelPort) -> Decision:
    match row.cancel:
        case Cancel.ENDS:
            return choosing.cancel_before_moving(at, message.reason)
        case Cancel.ABORTS:
            return moving.cancel_moving(at, message.reason)
        case Cancel.UNDER_WAY if not at.state.reverted:
            return at.ignore("the port is being aborted already")
        case Cancel.UNDER_WAY | Cancel.TOO_LATE:
            refused = CancelRefused(
                port_id=at.state.port_id, code="too_late", detail="the switchover has been committed"
            )
        case Cancel.ENDED:
            refused = CancelRefused(
                port_id=at.state.port_id, code="already_ended", detail=f"the port is {at.state.phase}"
            )
    return at.stay(Send(at.state.tenant_party, refused), note=f"cancel refused: {refused.code}")


def _timed(at: Moment, line: Then | None, *, due: datetime | None, what: str) -> tuple[Decision, tuple[PortPhase, ...]]:
    if line is None or due is None or at.now < due:
        return at.ignore(f"no {what} was expected"), ()
    return line.do(at), line.to


def _checked(at: Moment, decision: Decision, allowed: tuple[PortPhase, ...]) -> Decision:
    """Set the new phase's deadline and make sure that the table allows where the handler went."""
    before, after = at.state, decision.state
    if after.phase is not before.phase and after.phase not in allowed:
        raise SagaBug(f"{before.phase} does not lead to {after.phase} here")
    if after.epoch < before.epoch:
        raise SagaBug(f"epoch {after.epoch} is older than {before.epoch}")
    if after.phase in ENDS:
        after = after.but(deadline=None, wake_at=None)
    elif after.phase is not before.phase or decision.rearm:
        limit = TABLE[after.phase].limit
        if limit is None:
            raise SagaBug(f"{after.phase} waits without a deadline")
        after = after.but(deadline=limit(Moment(after, at.now, at.timing)))
    effects = tuple(
        replace(effect, deadline=after.deadline) if isinstance(effect, Send) and effect.perishable else effect
        for effect in decision.effects
    )
    return replace(decision, state=after, effects=effects)
