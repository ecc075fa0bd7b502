"""Names, ids and beginnings of ids."""

from __future__ import annotations

from uuid import UUID

import pytest

from shared.client.resolve import Ambiguous, NotFound, find_plan, find_port, find_vm, whole_id
from shared.messages.queries import PortSummary, RegisteredVm
from shared.messages.service_change import PortPhase
from shared.messages.vm import VmState
from tests.support.plan_samples import shown_plan


def vm(name: str, uuid: str) -> RegisteredVm:
    return RegisteredVm(
        uuid=UUID(uuid),
        name=name,
        state=VmState.RUNNING,
        memory_bytes=1,
        vcpus=1,
        disk_bytes=1,
        provider="alpha",
        node="alpha-1",
        epoch=1,
    )


WEB = vm("web", "aaaa1111-0000-4000-8000-000000000001")
SHOP = vm("shop", "aaaa2222-0000-4000-8000-000000000002")
HEX = vm("aaaa", "bbbb0000-0000-4000-8000-000000000003")
VMS = (WEB, SHOP, HEX)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("web", WEB),
        ("shop", SHOP),
        (str(WEB.uuid), WEB),
        (WEB.uuid.hex, WEB),
        ("aaaa1", WEB),
        ("AAAA1111-00", WEB),
        ("bbbb", HEX),
        ("aaaa", HEX),
    ],
)
def test_vm_by_name_or_id(given: str, found: RegisteredVm) -> None:
    """An exact name wins over an id that begins so."""
    assert find_vm(given, VMS) == found


@pytest.mark.parametrize("given", ["", "WEB", "we", "a", "aaa", "cccc", "web "])
def test_unknown_vm(given: str) -> None:
    """Neither parts of names nor a few hex digits are guessed at; the error says what to do."""
    with pytest.raises(NotFound, match="vmport vm list"):
        find_vm(given, VMS)


def test_ambiguous_vm() -> None:
    """Two VMs of one name, or one beginning, are both named."""
    with pytest.raises(Ambiguous, match=r"web .*web"):
        find_vm("web", (WEB, SHOP.model_copy(update={"name": "web"})))
    with pytest.raises(Ambiguous):
        find_vm("aaaa", (WEB, SHOP))


def test_the_running_vm_is_meant() -> None:
    """A VM that is gone does not stand in the way of its successor of the same name."""
    gone = SHOP.model_copy(update={"name": "web", "state": VmState.OTHER})

    assert find_vm("web", (gone, WEB)) == WEB
    assert find_vm("web", (gone,)) == gone


def test_ports() -> None:
    """A port is found by the beginning of its id among the tenant's ports."""
    ids = [UUID("12345678-0000-4000-8000-000000000001"), UUID("12349999-0000-4000-8000-000000000001")]
    moment = "2026-01-02T00:00:00Z"
    ports = [
        PortSummary.model_validate(
            {
                "port_id": port_id,
                "vm_uuid": WEB.uuid,
                "vm_name": "web",
                "donor": "alpha",
                "phase": PortPhase.QUOTING,
                "requested_at": moment,
                "updated_at": moment,
            }
        )
        for port_id in ids
    ]

    assert find_port("12345", ports) == ids[0]
    with pytest.raises(Ambiguous):
        find_port("1234", ports)
    with pytest.raises(NotFound, match="vmport port list"):
        find_port("ffff", ports)


def test_whole_id() -> None:
    """A whole id needs no list; anything else is looked up."""
    assert whole_id(str(WEB.uuid)) == WEB.uuid
    assert whole_id("aaaa1111") is None


@pytest.mark.parametrize(
    ("given", "hinted"), [("fd", True), ("aaa", True), ("cccc", False), ("we", False), ("", False)]
)
def test_minimum_of_an_id(*, given: str, hinted: bool) -> None:
    """What may be the beginning of an id but is too short for one gets the minimum told."""
    with pytest.raises(NotFound) as caught:
        find_vm(given, VMS)
    assert ("give at least 4 characters" in str(caught.value)) is hinted


def test_a_plan_by_name_or_id() -> None:
    """Its name first; two plans of one name are told apart by their ids."""
    plan = shown_plan().summary
    other = plan.model_copy(update={"plan_id": UUID(int=5)})
    assert find_plan("spring", [plan]) == find_plan(str(plan.plan_id)[:8], [plan, other]) == plan.plan_id
    with pytest.raises(Ambiguous):
        find_plan("spring", [plan, other])
    with pytest.raises(NotFound, match="vmport plan list"):
        find_plan("winter", [plan])
