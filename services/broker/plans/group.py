"""Carries a plan out as one group of ports: which begin, which are cancelled, when the group has ended. Pure.

A group has a number of moves and at most ``at_once`` ports under way. After each change the shell asks `decide`, which
says what is to be done now; asked again about the same state it says the same, so that a restart loses nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID, uuid5

from shared.messages.plans import MoveState, OnFailure, PlanState
from shared.messages.service_change import PortPhase
from shared.parties import Name

NOT_COMPLETED = frozenset({MoveState.REFUSED, MoveState.FAILED, MoveState.CANCELLED})
RUNS = frozenset({PlanState.APPLYING, PlanState.STOPPING, PlanState.CANCELLING})
MAY_BE_APPLIED = frozenset({PlanState.READY, PlanState.STOPPED, PlanState.CANCELLED})

CANCEL_ASKED = "its cancel was asked for"

_ENDED = {
    PortPhase.COMPLETED: MoveState.COMPLETED,
    PortPhase.FAILED: MoveState.FAILED,
    PortPhase.CANCELLED: MoveState.CANCELLED,
    PortPhase.REFUSED: MoveState.REFUSED,
    PortPhase.PLANNED: MoveState.FAILED,
}


@dataclass(frozen=True, slots=True)
class GroupMove:
    """One VM of the group. ``attempt`` counts its ports, from 1 on; 0 before the first."""

    vm_uuid: UUID
    vm_name: str
    donor: Name
    recipient: Name
    state: MoveState = MoveState.WAITING
    attempt: int = 0
    port_id: UUID | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A plan that is carried out."""

    plan_id: UUID
    state: PlanState
    at_once: int
    on_failure: OnFailure
    moves: tuple[GroupMove, ...]
    failure: str = ""
    """Why the group was stopped."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The group as it is to be stored, and the one thing to do now; transactions stay short."""

    group: Group
    file: int | None = None
    """The number of the move whose port is to be filed; the move has its new port's id already."""
    cancel: UUID | None = None
    """The port to be cancelled."""
    waits_for_room: bool = False
    """The tenant has as many ports under way as the broker's limits allow."""

    @property
    def is_more_to_do(self) -> bool:
        """Whether `decide` is to be asked again at once."""
        return self.file is not None or self.cancel is not None


def begun(group: Group, *, at_once: int, on_failure: OnFailure) -> Group:
    """The group as it begins, or goes on with what was left of it, failures included."""
    again = {MoveState.LEFT, *NOT_COMPLETED}
    moves = tuple(
        replace(move, state=MoveState.WAITING, detail="") if move.state in again else move for move in group.moves
    )
    return replace(group, state=PlanState.APPLYING, at_once=at_once, on_failure=on_failure, moves=moves, failure="")


def cancelled(group: Group, reason: str) -> Group:
    """The group when its tenant takes it back; one that is not carried out is cancelled at once."""
    state = PlanState.CANCELLING if group.state in RUNS else PlanState.CANCELLED
    moves = group.moves if state is PlanState.CANCELLING else _without_waiting(group.moves)
    return replace(group, state=state, failure=reason, moves=moves)


def with_end(group: Group, port_id: UUID, phase: PortPhase, detail: str) -> Group:
    """The group after one of its ports has ended."""
    moves = tuple(
        replace(move, state=_ENDED[phase], detail=detail)
        if move.port_id == port_id and move.state is MoveState.UNDER_WAY
        else move
        for move in group.moves
    )
    return replace(group, moves=moves)


def ports_under_way(group: Group) -> tuple[UUID, ...]:
    """The ids of the group's ports that have not ended, as far as it knows."""
    return tuple(move.port_id for move in group.moves if move.state is MoveState.UNDER_WAY and move.port_id is not None)


def with_whereabouts(group: Group, provider_of: Mapping[UUID, Name]) -> Group:
    """The group by where its waiting VMs run now: each port begins there, and who has arrived needs none."""

    def now(move: GroupMove) -> GroupMove:
        provider = provider_of.get(move.vm_uuid, move.donor)
        if move.state is not MoveState.WAITING:
            return move
        if provider == move.recipient:
            return replace(move, state=MoveState.COMPLETED, detail=f"it runs at {provider} already")
        return replace(move, donor=provider)

    return replace(group, moves=tuple(map(now, group.moves)))


def decide(group: Group, *, room: int) -> Decision:
    """What is to be done now. ``room`` is how many more ports of the tenant the broker's limits allow."""
    if group.state not in RUNS:
        return Decision(group)
    group = _stopped_by_failure(group)
    if group.state is not PlanState.APPLYING:
        group = replace(group, moves=_without_waiting(group.moves))
    under_way = [number for number, move in enumerate(group.moves) if move.state is MoveState.UNDER_WAY]
    waiting = [number for number, move in enumerate(group.moves) if move.state is MoveState.WAITING]
    if not under_way and not waiting:
        return Decision(replace(group, state=_end_of(group)))
    if group.state is PlanState.CANCELLING:
        return _cancel_next(group, under_way)
    if not waiting or len(under_way) >= group.at_once:
        return Decision(group)
    if room < 1:
        return Decision(group, waits_for_room=True)
    return Decision(_with_move(group, waiting[0], _filed(group.plan_id, group.moves[waiting[0]])), file=waiting[0])


def _cancel_next(group: Group, under_way: list[int]) -> Decision:
    """Each port is asked once: one that is past its switchover completes."""
    number = next((each for each in under_way if group.moves[each].detail != CANCEL_ASKED), None)
    if number is None:
        return Decision(group)
    move = group.moves[number]
    return Decision(_with_move(group, number, replace(move, detail=CANCEL_ASKED)), cancel=move.port_id)


def _with_move(group: Group, number: int, move: GroupMove) -> Group:
    return replace(group, moves=(*group.moves[:number], move, *group.moves[number + 1 :]))


def counts(states: Iterable[MoveState]) -> tuple[int, int]:
    """How many moves have completed, and how many have ended otherwise."""
    found = Counter(states)
    return found[MoveState.COMPLETED], sum(found[state] for state in NOT_COMPLETED)


def _stopped_by_failure(group: Group) -> Group:
    bad = next((move for move in group.moves if move.state in NOT_COMPLETED), None)
    if group.state is not PlanState.APPLYING or group.on_failure == "go_on" or bad is None:
        return group
    reason = f"the port of {bad.vm_name} to {bad.recipient} was not completed: {bad.state}"
    return replace(group, state=PlanState.STOPPING, failure=f"{reason}: {bad.detail}" if bad.detail else reason)


def _without_waiting(moves: tuple[GroupMove, ...]) -> tuple[GroupMove, ...]:
    return tuple(replace(move, state=MoveState.LEFT) if move.state is MoveState.WAITING else move for move in moves)


def _filed(plan_id: UUID, move: GroupMove) -> GroupMove:
    """A port's id is a function of plan, VM and attempt: it is filed once, however often that is tried."""
    attempt = move.attempt + 1
    port_id = uuid5(plan_id, f"{move.vm_uuid}:{attempt}")
    return replace(move, state=MoveState.UNDER_WAY, attempt=attempt, port_id=port_id, detail="")


def _end_of(group: Group) -> PlanState:
    if all(move.state is MoveState.COMPLETED for move in group.moves):
        return PlanState.COMPLETED
    return {PlanState.STOPPING: PlanState.STOPPED, PlanState.CANCELLING: PlanState.CANCELLED}.get(
        group.state, PlanState.PARTLY
    )
