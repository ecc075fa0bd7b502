"""A group of ports, as a pure machine: what begins, what is cancelled, how it ends."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from services.broker.plans import group
from services.broker.plans.group import Decision, Group, GroupMove, decide
from shared.messages.plans import MoveState, OnFailure, PlanState
from shared.messages.service_change import PortPhase

PLAN = UUID(int=1)
M = MoveState


def moves(count: int) -> tuple[GroupMove, ...]:
    """VMs at alpha that go to beta."""
    return tuple(GroupMove(UUID(int=100 + number), f"vm-{number}", "alpha", "beta") for number in range(count))


def applied(count: int = 4, *, at_once: int = 2, on_failure: OnFailure = "stop") -> Group:
    """A group that begins."""
    ready = Group(PLAN, PlanState.READY, 1, "stop", moves(count))
    return group.begun(ready, at_once=at_once, on_failure=on_failure)


def run(now: Group, *, room: int = 100) -> tuple[Group, list[Decision]]:
    """All that is to be done until something has to happen."""
    done: list[Decision] = []
    while (decision := decide(now, room=room - len(done))).is_more_to_do:
        now = decision.group
        done.append(decision)
    return decision.group, done


def end(now: Group, number: int, phase: PortPhase = PortPhase.COMPLETED, detail: str = "") -> Group:
    """The newest port of a move ends."""
    port_id = now.moves[number].port_id
    assert port_id is not None
    return run(group.with_end(now, port_id, phase, detail))[0]


def states(now: Group) -> list[str]:
    return [move.state.value for move in now.moves]


def test_at_most_so_many_at_once() -> None:
    """The next begins when one has ended; when all have, the plan is completed."""
    now, done = run(applied(4, at_once=2))
    assert [each.file for each in done] == [0, 1]
    assert states(now) == ["under_way", "under_way", "waiting", "waiting"]
    now = end(now, 1)
    assert states(now) == ["under_way", "completed", "under_way", "waiting"]
    for number in (0, 2, 3):
        assert now.state is PlanState.APPLYING
        now = end(now, number)
    assert now.state is PlanState.COMPLETED
    assert group.counts(move.state for move in now.moves) == (4, 0)


def test_asked_again_it_says_the_same() -> None:
    """A port's id is a function of plan, VM and attempt, so what was filed before a crash is not filed twice."""
    first, again = decide(applied(), room=9), decide(applied(), room=9)
    assert first == again
    assert first.group.moves[0].port_id is not None
    assert len({move.port_id for move in run(applied(3, at_once=3))[0].moves}) == 3


@pytest.mark.parametrize("phase", [PortPhase.FAILED, PortPhase.REFUSED, PortPhase.CANCELLED])
def test_the_first_failure_stops_it(phase: PortPhase) -> None:
    """What is under way goes on to its end, nothing further begins, and the reason is kept."""
    now = end(run(applied(4, at_once=2))[0], 0, phase, "no room")
    assert (now.state, states(now)[1:]) == (PlanState.STOPPING, ["under_way", "left", "left"])
    assert now.failure == f"the port of vm-0 to beta was not completed: {phase}: no room"
    now = end(now, 1)
    assert now.state is PlanState.STOPPED


def test_a_failure_need_not_stop_it() -> None:
    """All others are moved; the end says that not all were."""
    now = end(run(applied(3, at_once=1, on_failure="go_on"))[0], 0, PortPhase.FAILED)
    for number in (1, 2):
        now = end(now, number)
    assert (now.state, states(now)) == (PlanState.PARTLY, ["failed", "completed", "completed"])


def test_cancelled_as_one() -> None:
    """Each port that is under way is cancelled once; one past its switchover completes all the same."""
    begun, _ = run(applied(4, at_once=2))
    now, done = run(group.cancelled(begun, "not today"))
    assert [each.cancel for each in done] == [begun.moves[0].port_id, begun.moves[1].port_id]
    assert states(now)[2:] == ["left", "left"]
    assert not decide(now, room=9).is_more_to_do
    now = end(end(now, 0), 1, PortPhase.CANCELLED)
    assert (now.state, states(now)) == (PlanState.CANCELLED, ["completed", "cancelled", "left", "left"])


def test_cancelled_before_it_was_applied() -> None:
    """It ends at once."""
    now = group.cancelled(Group(PLAN, PlanState.READY, 1, "stop", moves(2)), "no")
    assert (now.state, states(now)) == (PlanState.CANCELLED, ["left", "left"])


def test_it_goes_on_with_what_was_left() -> None:
    """Applied again, what has completed stays, and each failed VM gets another port."""
    stopped = end(run(applied(3, at_once=1))[0], 0, PortPhase.FAILED)
    assert stopped.state is PlanState.STOPPED
    again, _ = run(group.begun(stopped, at_once=3, on_failure="go_on"))
    assert states(again) == ["under_way"] * 3
    assert again.moves[0].attempt == 2
    assert again.moves[0].port_id != stopped.moves[0].port_id
    assert again.failure == ""


def test_no_room() -> None:
    """The tenant has as many ports as it may have: the group waits, and says so."""
    decision = decide(applied(), room=0)
    assert (decision.is_more_to_do, decision.waits_for_room) == (False, True)


def test_whereabouts() -> None:
    """Who has arrived needs no port; who was moved elsewhere begins there."""
    waiting = applied(3)
    at = {waiting.moves[0].vm_uuid: "beta", waiting.moves[1].vm_uuid: "gamma"}
    now = group.with_whereabouts(waiting, at)
    assert states(now) == ["completed", "waiting", "waiting"]
    assert [move.donor for move in now.moves] == ["alpha", "gamma", "alpha"]


def test_an_older_port_changes_nothing() -> None:
    """Only the newest attempt counts, and only while it is under way."""
    now = run(applied(1))[0]
    ended = end(now, 0)
    port_id = now.moves[0].port_id
    assert port_id is not None
    assert group.with_end(ended, port_id, PortPhase.FAILED, "late") == ended
    assert group.with_end(now, UUID(int=7), PortPhase.FAILED, "other") == now
    assert decide(replace(ended), room=5) == Decision(ended)
