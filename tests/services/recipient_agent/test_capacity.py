"""What is left on a node, and quotas."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recipient_agent.capacity import (
    GIB,
    MIB,
    Held,
    Nodes,
    Overcommit,
    Quota,
    Room,
    quota_refusals,
    room_on,
    room_refusals,
)
from services.recipient_agent.testing import (
    NOW,
    VM_UUID,
    make_capacity,
    make_heartbeat,
    make_node,
    make_summary,
    make_vm,
)
from shared.domain import NEXT_MEMORY
from shared.messages.vm import Need, VmState

EXACT = Overcommit(vcpus=1, memory=1, disk=1, memory_reserve_mib=0, disk_reserve_gib=0)


def held(**changes: Any) -> Held:
    """A reservation on beta-1."""
    facts: dict[str, Any] = {
        "port_id": UUID(int=5),
        "tenant": "acme",
        "node": "beta-1",
        "vm_uuid": UUID(int=50),
        "vm_name": "shop",
        "macs": (),
        "vcpus": 1,
        "memory_bytes": GIB,
        "disk_bytes": 10 * GIB,
    }
    return Held(**{**facts, **changes})


def test_empty_node_has_everything() -> None:
    """Free memory and disk bound what is left, even where nothing was sold."""
    assert room_on(make_node(), [], EXACT) == Room(4, 7 * GIB, 90 * GIB)


def test_reserves_are_kept_for_the_host() -> None:
    """What the operator keeps back is not sold."""
    overcommit = Overcommit(vcpus=2, memory=1, disk=1, memory_reserve_mib=512, disk_reserve_gib=5)

    assert room_on(make_node(), [], overcommit) == Room(8, 7 * GIB - 512 * MIB, 85 * GIB)


def test_vms_that_are_here_are_subtracted_but_sleeping_ones_use_no_memory() -> None:
    """A VM that is shut off keeps its disk only."""
    capacity = make_capacity(memory_free_bytes=8 * GIB, disk_free_bytes=100 * GIB)
    awake = make_node(capacity=capacity, vms=(make_summary(),))
    asleep = make_node(capacity=capacity, vms=(make_summary(state=VmState.SHUT_OFF),))

    assert room_on(awake, [], EXACT) == Room(2, 7 * GIB, 90 * GIB)
    assert room_on(asleep, [], EXACT) == Room(4, 8 * GIB, 90 * GIB)


def test_reservations_are_subtracted_on_their_node_only() -> None:
    """A reservation elsewhere, or one that is over, takes nothing here."""
    others = [held(node="beta-2"), held(reserved=False)]

    assert room_on(make_node(), [held()], EXACT) == Room(3, 6 * GIB, 80 * GIB)
    assert room_on(make_node(), others, EXACT) == room_on(make_node(), [], EXACT)


def test_a_vm_that_is_arriving_is_counted_once_but_its_disk_stays_reserved() -> None:
    """Once a heartbeat lists the VM its memory is used, while its disk file still grows."""
    arriving = make_summary(uuid=UUID(int=50), memory_bytes=GIB, vcpus=1, disk_bytes=10 * GIB)
    capacity = make_capacity(memory_free_bytes=7 * GIB, disk_free_bytes=90 * GIB)

    assert room_on(make_node(capacity=capacity, vms=(arriving,)), [held()], EXACT) == Room(3, 7 * GIB, 80 * GIB)


def test_overcommit_looks_away_from_what_is_free() -> None:
    """Who sells more than is there has said so."""
    generous = Overcommit(vcpus=1, memory=2, disk=3, memory_reserve_mib=0, disk_reserve_gib=0)
    full = make_node(capacity=make_capacity(memory_free_bytes=0, disk_free_bytes=0))

    assert room_on(full, [], generous) == Room(4, 16 * GIB, 300 * GIB)


@pytest.mark.parametrize(
    ("room", "codes"),
    [
        (Room(1, 512 * MIB, GIB), []),
        (Room(0, 512 * MIB, GIB), ["vcpus_short"]),
        (Room(1, 512 * MIB - 1, GIB), ["memory_short"]),
        (Room(1, 512 * MIB, GIB - 1), ["disk_space_short"]),
        (Room(-5, -5, -5), ["vcpus_short", "memory_short", "disk_space_short"]),
    ],
)
def test_what_does_not_fit_is_refused(room: Room, codes: list[str]) -> None:
    """The exact fit is allowed; each shortage is its own refusal."""
    refusals = list(room_refusals(make_vm(), make_node(), room))

    assert [refusal.code for refusal in refusals] == codes
    assert not any("-5" in refusal.evidence for refusal in refusals)


@pytest.mark.parametrize(("later", "codes"), [(8 * GIB, []), (8 * GIB + 1, ["memory_short"])])
def test_a_vm_that_no_longer_fits_after_its_next_start_is_refused(later: int, codes: list[str]) -> None:
    """The lasting definition may have more memory than the VM has now; the node has 8 GiB."""
    vm = make_vm(needs=(Need(kind=NEXT_MEMORY, value=str(later)),))

    assert [each.code for each in room_refusals(vm, make_node(), Room(1, 512 * MIB, GIB))] == codes


@pytest.mark.parametrize(
    ("quota", "refused"),
    [
        (Quota(), False),
        (Quota(vms=2), False),
        (Quota(vms=1), True),
        (Quota(vcpus=2), False),
        (Quota(vcpus=1), True),
        (Quota(memory_mib=1536), False),
        (Quota(memory_mib=1535), True),
        (Quota(disk_gib=11), False),
        (Quota(disk_gib=10), True),
    ],
)
def test_quota_per_tenant_and_in_total(quota: Quota, *, refused: bool) -> None:
    """A quota counts what the tenant has here, and the one VM more."""
    mine, others = [held()], [held(tenant="globex")]

    assert [r.code for r in quota_refusals(make_vm(), mine, tenant="acme", quota=quota)] == ["quota_tenant"] * refused
    assert [r.code for r in quota_refusals(make_vm(), mine, tenant=None, quota=quota)] == ["quota_total"] * refused
    alone = list(quota_refusals(make_vm(), others, tenant="acme", quota=quota))
    assert alone == []


@given(
    sold=st.lists(st.integers(0, 4 * GIB), max_size=6),
    coming=st.lists(st.integers(0, 4 * GIB), max_size=6),
    overcommit=st.floats(0.1, 1.0),
)
def test_more_load_never_means_more_room(sold: list[int], coming: list[int], overcommit: float) -> None:
    """Room shrinks with every VM and every reservation, and without overcommit nothing is sold twice."""
    vms = tuple(make_summary(uuid=UUID(int=n), memory_bytes=size) for n, size in enumerate(sold))
    reservations = [held(vm_uuid=UUID(int=1000 + n), memory_bytes=size) for n, size in enumerate(coming)]
    terms = Overcommit(vcpus=1, memory=overcommit, disk=1, memory_reserve_mib=0, disk_reserve_gib=0)

    room = room_on(make_node(vms=vms), reservations, terms)

    assert room.memory_bytes <= room_on(make_node(vms=vms), reservations[:-1], terms).memory_bytes
    assert room.memory_bytes <= room_on(make_node(vms=vms[:-1]), reservations, terms).memory_bytes
    assert room.memory_bytes + sum(sold) + sum(coming) <= 8 * GIB


def test_an_older_heartbeat_is_no_news() -> None:
    """Messages may come again; the newest word of a node counts."""
    new = make_heartbeat(vms=(make_summary(uuid=VM_UUID),))
    old = make_heartbeat(at=NOW - timedelta(seconds=5), healthy=False)

    nodes = Nodes().heard("beta-1", new, NOW).heard("beta-1", old, NOW)

    assert nodes.serves(VM_UUID) is not None
    assert nodes.views["beta-1"].problems == ()


def test_a_clock_that_steps_back_silences_no_node() -> None:
    """The second heartbeat after the step counts again, though the node's clock says less than an hour ago."""
    nodes = Nodes().heard("beta-1", make_heartbeat(at=NOW + timedelta(hours=1)), NOW)
    for seconds in (30, 60):
        at = NOW + timedelta(seconds=seconds)
        nodes = nodes.heard("beta-1", make_heartbeat(at=at), at)

    assert nodes.views["beta-1"].heard_at == NOW + timedelta(seconds=60)


def test_an_unhealthy_node_without_words_has_a_problem() -> None:
    """Healthy means healthy."""
    nodes = Nodes().heard("b", make_heartbeat(healthy=False), NOW).heard("a", make_heartbeat(ports=(UUID(int=1),)), NOW)

    assert nodes.views["b"].problems
    assert [view.name for view in nodes.in_order()] == ["a", "b"]
    assert nodes.busy_with(UUID(int=1))
    assert not nodes.busy_with(UUID(int=2))
