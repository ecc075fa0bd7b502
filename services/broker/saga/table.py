"""The saga's table: what each phase understands, how long it may take, what happens then, and what a cancel does. Pure.

Theory
------
A port is a conversation between parties that may be late, silent, restarted or wrong. The saga decides what each of
their messages means *now*. It is a function: state and event in, new state and effects out. `machine.step` computes
it from this table. The table keeps these rules:

1. **One owner.** The VM belongs to the donor until CommitEpoch and to the recipient after it. CommitEpoch stands on
   two edges only: from TRANSFERRING (or STARTING) to SWITCHING; and back, from RESOLVING to ABORTING, when the
   recipient itself reports that it has no guest and had none, and the donor's node that it has not let it go.
2. **Yes and no exclude each other.** An edge to ABORTING decides that there is no switchover: a request that comes
   later is denied. An edge to SWITCHING decides that there is no abort: a cancel that comes later is too late.
3. **Every wait ends.** Each phase except the ends has a deadline and a handler for it. Before the commit that handler
   gives up, and the VM stays. After the commit it asks again and calls an operator, because only going forward is
   right; the operator can settle the port, so that it ends whatever became of its parties.
4. **No message can raise an error.** A message that the phase does not understand is recorded and ignored. A duplicate
   finds the state that the first one made, and changes nothing. A message from the wrong party is recorded and refused.
5. **Nothing stays behind.** Each edge to an end releases all reservations and closes the lanes. Only what keeps the
   VM's addresses may outlive a port that has completed; `services.broker.extensions` ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from services.broker.saga import approving, arrival, choosing, ending, finishing, moving, settling, switching
from services.broker.saga.decision import Decision, Moment
from services.broker.saga.events import Heard, Settled
from services.broker.saga.state import SagaState
from shared.messages import Message
from shared.messages.approval import DonorApproved, DonorRejected
from shared.messages.porting import (
    CompletionFailed,
    DisksErased,
    GuestPaused,
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
from shared.messages.service_change import CancelPort, PortPhase
from shared.messages.switchover import CopyState
from shared.parties import Party, recipient

P = PortPhase
M = TypeVar("M", bound=Message)
Timeout = Callable[[Moment], Decision]
Limit = Callable[[Moment], datetime]


# What a row is made of


@dataclass(frozen=True, slots=True)
class On:
    """One line of a phase: which message is answered how, and where that can lead (besides staying). See `on`."""

    message: type[Message]
    do: Callable[[Moment, Heard[Any]], Decision]
    to: tuple[PortPhase, ...] = ()


def on(message: type[M], do: Callable[[Moment, Heard[M]], Decision], *, to: tuple[PortPhase, ...] = ()) -> On:
    """Register a handler for its message type. mypy rejects a handler of another type."""
    return On(message, do, to)


@dataclass(frozen=True, slots=True)
class Then:
    """What a phase does when a time has come, and where that can lead (besides staying)."""

    do: Timeout
    to: tuple[PortPhase, ...] = ()


@dataclass(frozen=True, slots=True)
class Settle:
    """What an operator's decision does in a phase, and where that can lead (besides staying)."""

    do: Callable[[Moment, Settled], Decision]
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

    hears: tuple[On, ...]
    cancel: Cancel
    limit: Limit | None = None
    limit_text: str = ""
    on_deadline: Then | None = None
    on_wake: Then | None = None
    on_lanes: Then | None = None
    on_settled: Settle | None = None


# Who may send what. A party that the port does not name is refused.

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


def _donor_node(state: SagaState) -> tuple[Party | None, ...]:
    return (state.donor_node,)


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
    GuestPaused: _donor_node,
    RequestSwitchover: _recipient_node,
    QuerySwitchover: _nodes,
    CopyState: _donor_node,
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


def own_time(name: str) -> Limit:
    """The phase's own time: the `Timing` of this name."""

    def limit(at: Moment) -> datetime:
        duration: timedelta = getattr(at.timing, name)
        return at.now + duration

    return limit


def within_port(name: str) -> Limit:
    """The phase's own time, but never past the port's deadline."""
    own = own_time(name)

    def limit(at: Moment) -> datetime:
        return min(own(at), _port_deadline(at))

    return limit


def _port_deadline(at: Moment) -> datetime:
    return at.agreement.deadline


# The table

ANYWHERE: tuple[On, ...] = (
    on(QuerySwitchover, switching.tell_owner),
    on(GuestPaused, switching.pause_known),
    on(RequestSwitchover, switching.deny_switchover),
    on(Reserved, choosing.reserved_too_late),
    on(DonorRejected, approving.refused_late),
)
"""Answers to messages that a phase does not list itself."""

_SWITCHOVER = (
    on(GuestPaused, switching.guest_paused, to=(P.SWITCHING,)),
    on(RequestSwitchover, switching.request_switchover, to=(P.SWITCHING,)),
)
_FAILED_BEFORE_COMMIT = on(TransferFailed, moving.transfer_failed, to=(P.ABORTING,))

_AGAINST_THE_END = (
    on(OutboundFinished, ending.contradicted_late),
    on(InboundFinished, ending.contradicted_late),
)

TABLE: Mapping[PortPhase, Phase] = {
    P.APPROVAL: Phase(
        hears=(
            on(DonorApproved, approving.donor_approved, to=(P.QUOTING, P.REFUSED, P.FAILED)),
            on(DonorRejected, approving.donor_rejected, to=(P.REFUSED,)),
        ),
        limit=own_time("approval"),
        limit_text="timing.approval_s",
        on_deadline=Then(approving.donor_silent, to=(P.FAILED,)),
        cancel=Cancel.ENDS,
    ),
    P.QUOTING: Phase(
        hears=(
            on(QuoteOffered, choosing.quote_offered, to=(P.RESERVING, P.REFUSED, P.PLANNED)),
            on(QuoteDeclined, choosing.quote_declined, to=(P.RESERVING, P.REFUSED, P.PLANNED)),
        ),
        limit=own_time("quoting"),
        limit_text="timing.quoting_s",
        on_deadline=Then(choosing.quoting_deadline, to=(P.RESERVING, P.REFUSED, P.PLANNED)),
        cancel=Cancel.ENDS,
    ),
    P.RESERVING: Phase(
        hears=(
            on(Reserved, choosing.reserved, to=(P.SCHEDULED, P.PREPARING, P.REFUSED, P.FAILED)),
            on(ReservationRefused, choosing.reservation_refused, to=(P.REFUSED,)),
        ),
        limit=own_time("reserving"),
        limit_text="timing.reserving_s, for each recipient tried",
        on_deadline=Then(choosing.reserving_deadline, to=(P.REFUSED,)),
        cancel=Cancel.ENDS,
    ),
    P.SCHEDULED: Phase(
        hears=(),
        limit=_port_deadline,
        limit_text="the port's deadline",
        on_deadline=Then(moving.window_missed, to=(P.FAILED,)),
        on_wake=Then(moving.open_window, to=(P.PREPARING, P.FAILED)),
        cancel=Cancel.ENDS,
    ),
    P.PREPARING: Phase(
        hears=(on(InboundOpened, moving.inbound_opened, to=(P.STARTING,)), _FAILED_BEFORE_COMMIT),
        limit=within_port("preparing"),
        limit_text="timing.preparing_s, at most the port's deadline",
        on_deadline=Then(moving.preparing_deadline, to=(P.ABORTING,)),
        on_lanes=Then(moving.lanes_opened),
        cancel=Cancel.ABORTS,
    ),
    P.STARTING: Phase(
        hears=(
            on(OutboundStarted, moving.outbound_started, to=(P.TRANSFERRING,)),
            # Node to broker is one hop, node to agent to broker two: these may overtake OutboundStarted.
            *_SWITCHOVER,
            _FAILED_BEFORE_COMMIT,
        ),
        limit=within_port("starting"),
        limit_text="timing.starting_s, at most the port's deadline",
        on_deadline=Then(moving.starting_deadline, to=(P.ABORTING,)),
        cancel=Cancel.ABORTS,
    ),
    P.TRANSFERRING: Phase(
        hears=(*_SWITCHOVER, _FAILED_BEFORE_COMMIT),
        limit=within_port("silence"),
        limit_text="timing.silence_s after the last progress, at most the port's deadline",
        on_deadline=Then(moving.transfer_deadline, to=(P.ABORTING,)),
        cancel=Cancel.ABORTS,
    ),
    P.SWITCHING: Phase(
        hears=(
            on(RequestSwitchover, switching.grant_again),
            on(InboundFinished, arrival.inbound_finished, to=(P.FINISHING,)),
            on(OutboundFinished, arrival.outbound_finished, to=(P.FINISHING,)),
            on(TransferFailed, arrival.failed_after_commit, to=(P.FINISHING, P.RESOLVING)),
        ),
        limit=own_time("switching"),
        limit_text="timing.switching_s",
        on_deadline=Then(arrival.switching_deadline, to=(P.RESOLVING, P.FINISHING)),
        cancel=Cancel.TOO_LATE,
    ),
    P.RESOLVING: Phase(
        hears=(
            on(RequestSwitchover, switching.grant_again),
            on(InboundFinished, arrival.inbound_finished, to=(P.FINISHING,)),
            on(OutboundFinished, arrival.outbound_finished, to=(P.FINISHING,)),
            on(TransferFailed, arrival.failed_after_commit, to=(P.FINISHING,)),
            on(CopyState, arrival.copy_known, to=(P.FINISHING, P.ABORTING)),
        ),
        limit=own_time("resolving"),
        limit_text="timing.resolving_s, repeated",
        on_deadline=Then(arrival.resolving_deadline, to=(P.FINISHING,)),
        on_wake=Then(arrival.ask_arrival_again),
        on_settled=Settle(settling.settle_resolving, to=(P.FINISHING, P.ABORTING)),
        cancel=Cancel.TOO_LATE,
    ),
    P.FINISHING: Phase(
        hears=(
            on(RequestSwitchover, switching.grant_again),
            on(InboundFinished, finishing.arrival_known),
            on(OutboundFinished, finishing.late_figures),
            on(TransferFailed, finishing.failed_while_finishing),
            on(VmDisconnected, finishing.vm_disconnected, to=(P.COMPLETED,)),
            on(VmProvisioned, finishing.vm_provisioned, to=(P.COMPLETED,)),
            on(CompletionFailed, finishing.completion_failed),
        ),
        limit=own_time("finishing"),
        limit_text="timing.finishing_s, repeated",
        on_deadline=Then(finishing.finishing_deadline, to=(P.COMPLETED,)),
        on_wake=Then(finishing.ask_completion_again),
        on_settled=Settle(settling.settle_finishing, to=(P.ABORTING,)),
        cancel=Cancel.TOO_LATE,
    ),
    P.ABORTING: Phase(
        hears=(
            on(TransferAborted, ending.transfer_aborted, to=(P.FAILED, P.CANCELLED)),
            on(TransferFailed, ending.other_side_failed),
            on(OutboundFinished, ending.contradicted),
            on(InboundFinished, ending.contradicted),
        ),
        limit=own_time("aborting"),
        limit_text="timing.aborting_s",
        on_deadline=Then(ending.abort_deadline, to=(P.FAILED, P.CANCELLED)),
        on_wake=Then(ending.ask_abort_again),
        on_settled=Settle(settling.settle_aborting, to=(P.FAILED, P.CANCELLED, P.FINISHING)),
        cancel=Cancel.UNDER_WAY,
    ),
    P.COMPLETED: Phase(
        hears=(
            on(DisksErased, finishing.disks_erased),
            on(VmProvisioned, finishing.provisioned_late),
            on(VmDisconnected, finishing.disconnected_late),
            on(TransferFailed, finishing.failed_late),
            on(RequestSwitchover, switching.tell_owner),
        ),
        cancel=Cancel.ENDED,
    ),
    P.FAILED: Phase(hears=_AGAINST_THE_END, cancel=Cancel.ENDED),
    P.CANCELLED: Phase(hears=_AGAINST_THE_END, cancel=Cancel.ENDED),
    P.REFUSED: Phase(hears=(), cancel=Cancel.ENDED),
    P.PLANNED: Phase(hears=(), cancel=Cancel.ENDED),
}

CANCEL_LEADS_TO: Mapping[Cancel, tuple[PortPhase, ...]] = {
    Cancel.ENDS: (P.CANCELLED,),
    Cancel.ABORTS: (P.ABORTING,),
    Cancel.UNDER_WAY: (),
    Cancel.TOO_LATE: (),
    Cancel.ENDED: (),
}
