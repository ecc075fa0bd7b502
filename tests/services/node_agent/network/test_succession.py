"""What an earlier port's record is still needed for when the VM has moved on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.plan import Going
from services.node_agent.network.succession import helps, is_going, overdue, removable, retired, superseded
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import agreement, plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def came(*, announce: bool = True, **more: object) -> NetworkRecord:
    first = agreement(plan(announce=announce))
    return NetworkRecord(side=Side.INBOUND, agreement=first, there=True).model_copy(update=more)


def left(mode: NetworkMode = NetworkMode.EXTEND, *, announce: bool = True, **more: object) -> NetworkRecord:
    first = agreement(plan(mode, announce=announce))
    second = first.model_copy(update={"port_id": UUID(int=2), "epoch": first.epoch + 1})
    return NetworkRecord(side=Side.OUTBOUND, agreement=second, there=True).model_copy(update=more)


@pytest.mark.parametrize(
    ("before", "after", "going"),
    [
        (came(), left(), True),
        (came(), left(NetworkMode.TRANSLATE), True),
        (came(), left(announce=False), False),
        (came(announce=False), left(), False),
        (came(), left(NetworkMode.ANCHOR), False),
        (came(), left(closed=True), False),
        (came(there=False), left(), False),
    ],
)
def test_only_what_is_announced_here_and_elsewhere_is_going(
    before: NetworkRecord, after: NetworkRecord, *, going: bool
) -> None:
    changed = retired(before, (before, after), NOW)
    assert changed.retired
    assert is_going(changed) is going


def test_time_begins_once() -> None:
    once = retired(came(), (came(), left()), NOW)
    assert retired(once, (once, left()), NOW + timedelta(hours=1)) == once


def test_it_is_overdue_when_the_help_has_ended_and_the_time_is_over() -> None:
    helped = retired(came(), (came(), left()), NOW)
    going = helped.model_copy(update={"going": Going.PASSED})
    assert not overdue(helped, (helped, left()), NOW + timedelta(hours=1), 30)
    assert not overdue(going, (going, left()), NOW + timedelta(hours=1), 30)
    assert not overdue(going, (going, left(closed=True)), NOW + timedelta(seconds=29), 30)
    assert overdue(going, (going, left(closed=True)), NOW + timedelta(seconds=30), 30)
    assert not overdue(going.model_copy(update={"going": Going.GONE}), (), NOW + timedelta(hours=1), 30)
    assert not overdue(came(), (), NOW, 0)


def test_what_leads_to_the_vm_stays_while_this_host_helps() -> None:
    before = came(announce=False, retired=True)
    assert helps(left())
    assert removable((before, left())) == ()
    assert removable((before, left(closed=True))) == (before,)
    assert removable((before, left(NetworkMode.ANCHOR))) == (before,)
    going = retired(came(), (came(), left()), NOW)
    assert removable((going, left(closed=True))) == ()
    gone = going.model_copy(update={"going": Going.GONE})
    assert removable((gone, left())) == ()
    assert removable((gone,)) == (gone,)
    back = left(retired=True)
    assert removable((back,)) == (back,)
    assert removable((came(), left())) == ()


def test_only_earlier_ports_of_the_vm_at_the_other_side_are_taken_back() -> None:
    before, epoch = came(announce=False), came().agreement.epoch
    assert superseded((before,), epoch, Side.OUTBOUND, NOW) == ()
    assert superseded((before,), epoch + 1, Side.INBOUND, NOW) == ()
    ((changed, news),) = superseded((before, left()), epoch + 1, Side.OUTBOUND, NOW)
    assert (changed, news) == (before, {"retired": True, "going_since": None, "going": None})


def test_routes_that_were_going_give_way_to_those_of_the_next_stay() -> None:
    going = retired(came(), (came(), left()), NOW)
    found = superseded((going, left()), came().agreement.epoch + 2, Side.INBOUND, NOW)
    assert found == (
        (going, {"going": Going.GONE}),
        (left(), {"retired": True, "going_since": None, "going": None}),
    )
