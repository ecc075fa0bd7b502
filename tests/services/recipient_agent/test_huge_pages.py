"""Huge pages: of the right size, free, and promised to no other VM."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.recipient_agent.capacity import GIB, MIB, Held
from services.recipient_agent.huge_pages import huge_page_refusals, page_bytes, wanted_pages
from services.recipient_agent.testing import VM_UUID, make_node, make_platform, make_summary, make_vm
from shared.messages.host import HugePages
from shared.messages.vm import Need, VmDescription

SMALL, LARGE = 2 * MIB, GIB


def vm_on(*wanted: str) -> VmDescription:
    """The VM of 512 MiB, on huge pages."""
    return make_vm(needs=tuple(Need(kind="hugepages", value=each) for each in wanted))


def promise(*wanted: str, node: str = "beta-1", number: int = 50, reserved: bool = True) -> Held:
    """The reservation of another VM of 512 MiB."""
    return Held(
        port_id=UUID(int=number), tenant="globex", node=node, vm_uuid=UUID(int=number), vm_name="shop", macs=(),
        vcpus=1, memory_bytes=512 * MIB, disk_bytes=0, reserved=reserved, huge_pages=wanted,
    )  # fmt: skip


def codes(vm: VmDescription, *held: Held, pages: dict[int, int], vms: tuple[UUID, ...] = ()) -> list[str]:
    """What speaks against a node with so many free pages of each size, that reports these VMs."""
    there = tuple(HugePages(size_bytes=size, total=999, free=free) for size, free in pages.items())
    node = make_node(
        platform=make_platform(huge_pages=there), vms=tuple(make_summary(uuid=each, name=str(each)) for each in vms)
    )
    return [refusal.code for refusal in huge_page_refusals(vm, node, held)]


@pytest.mark.parametrize(
    ("wanted", "pages", "found"),
    [
        ("2048 KiB", {SMALL: 256}, []),
        ("2048 KiB", {SMALL: 255}, ["huge_pages_short"]),
        ("1 GiB", {SMALL: 999}, ["huge_pages_short"]),
        ("default", {SMALL: 256}, []),
        ("default", {}, ["huge_pages_short"]),
    ],
)
def test_a_vm_on_huge_pages_needs_free_ones_of_its_size(wanted: str, pages: dict[int, int], found: list[str]) -> None:
    """512 MiB; where the VM names no size, any of the host's will do."""
    assert codes(vm_on(wanted), pages=pages) == found


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (promise("2048 KiB"), ["huge_pages_short"]),
        (promise("default"), ["huge_pages_short"]),
        (promise("1 GiB", "2048 KiB"), ["huge_pages_short"]),
        (promise("1 GiB"), []),
        (promise(), []),
        (promise("2048 KiB", node="beta-2"), []),
        (promise("2048 KiB", reserved=False), []),
    ],
)
def test_two_vms_are_not_promised_the_same_pages(held: Held, found: list[str]) -> None:
    """For the second 511 MiB are left; pages of another size, of another node or of a VM without any do not count."""
    assert codes(vm_on("2048 KiB"), held, pages={SMALL: 511, LARGE: 8}) == found


def test_a_vm_that_is_there_has_its_pages() -> None:
    """They are no longer free by the heartbeat, and are not subtracted twice."""
    assert codes(vm_on("2048 KiB"), promise("2048 KiB"), pages={SMALL: 256}, vms=(UUID(int=50),)) == []


def test_a_vm_without_huge_pages_needs_none() -> None:
    """Whatever is promised to others."""
    assert codes(vm_on(), promise("2048 KiB"), pages={}) == []
    assert wanted_pages(vm_on()) == ()
    assert vm_on().uuid == VM_UUID


def test_sizes_of_pages() -> None:
    """libvirt's units; what is no size is the host's default."""
    assert page_bytes("1048576 KiB") == page_bytes("1 GiB") == 1 << 30
    assert page_bytes("2 m") == 2 << 20
    assert page_bytes("default") is None
