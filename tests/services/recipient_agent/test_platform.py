"""The platform check: one refusal per finding, none where all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recipient_agent.capacity import Held
from services.recipient_agent.platform import (
    Bridges,
    blocker_refusals,
    collision_refusals,
    platform_refusals,
)
from services.recipient_agent.testing import MAC, VERSIONS, VM_UUID, make_node, make_platform, make_summary, make_vm
from shared.messages.base import Refusal
from shared.messages.vm import Disk, Firmware, FirmwareFacts, FirmwareInterface, HypervisorVersions, Nic, Vlan

SECURE = FirmwareFacts(interface=FirmwareInterface.PFLASH, secure_boot=True)
TAGGED = Nic(mac=MAC, model="virtio", bridge="br-donor", vlan=Vlan(tags=(193,)))
BRIDGES = Bridges({"br-donor": "vmbr0"})
HELD = Held(
    port_id=UUID(int=5),
    tenant="globex",
    node="beta-1",
    vm_uuid=UUID(int=50),
    vm_name="shop",
    macs=("52:54:00:00:00:50",),
    vcpus=1,
    memory_bytes=1,
    disk_bytes=1,
)


def check(vm: dict[str, Any] | None = None, host: dict[str, Any] | None = None, **node: Any) -> list[Refusal]:
    """The check with something changed."""
    view = make_node(platform=make_platform(**(host or {})), **node)
    return list(
        platform_refusals(make_vm(**(vm or {})), VERSIONS, view, bridges=BRIDGES, silent_s=1.0, silent_after_s=30.0)
    )


def versions(**changes: tuple[int, int, int]) -> HypervisorVersions:
    """The host's versions, changed."""
    return VERSIONS.model_copy(update=changes)


def disk(**changes: Any) -> tuple[Disk, ...]:
    """One disk."""
    facts = {"target": "vda", "bus": "virtio", "format": "raw", "virtual_size_bytes": 1 << 30, "allocated_bytes": 0}
    return (Disk.model_validate({**facts, **changes}),)


def test_a_node_that_fits_is_not_refused() -> None:
    """The VM of the tests can run on the node of the tests."""
    assert check() == []


@pytest.mark.parametrize(
    ("vm", "host", "code", "evidence"),
    [
        ({"architecture": "aarch64"}, {}, "architecture_unsupported", "aarch64"),
        ({"domain_type": "kvm"}, {}, "accelerator_unsupported", "kvm"),
        ({"cpu_model": "Skylake-Server"}, {}, "cpu_model_unusable", "Skylake-Server"),
        ({"cpu_model": ""}, {"cpu_models": ()}, "cpu_model_unusable", "(none)"),
        ({"machine": "pc-q35-11.0"}, {}, "machine_type_unsupported", "pc-q35-11.0"),
        ({"firmware": Firmware.UEFI}, {}, "firmware_unsupported", "uefi"),
        ({"firmware_facts": SECURE}, {}, "firmware_unsupported", "secure boot"),
        ({"nics": (TAGGED,)}, {}, "vlan_not_mapped", "br-donor.193"),
        ({}, {"versions": versions(qemu=(10, 0, 1))}, "qemu_too_old", "10.0.1"),
        ({}, {"versions": versions(libvirt=(11, 2, 9))}, "libvirt_too_old", "11.2.9"),
        ({"disks": disk(format="qed")}, {}, "disk_format_unsupported", "qed"),
        ({"disks": disk(virtual_size_bytes=1000)}, {}, "disk_size_invalid", "1000"),
        ({"disks": disk(virtual_size_bytes=0)}, {}, "disk_size_invalid", "0 bytes"),
        ({"nics": (Nic(mac=MAC, model="virtio", bridge="dmz"),)}, {}, "bridge_missing", "dmz"),
        ({}, {"bridges": ()}, "bridge_missing", "none"),
    ],
)
def test_each_finding_is_a_refusal(vm: dict[str, Any], host: dict[str, Any], code: str, evidence: str) -> None:
    """What does not fit is refused with its code, and the evidence names it."""
    refusals = check(vm, host)

    assert [refusal.code for refusal in refusals] == [code]
    assert evidence in refusals[0].evidence


def test_old_qemu_is_refused_under_emulation_on_either_side() -> None:
    """QEMU before 10 corrupts guests that migrate without KVM; with KVM it serves."""
    old = versions(qemu=(7, 2, 0))
    node = make_node(platform=make_platform(versions=old, accelerators=("kvm", "qemu")))

    def codes(domain_type: str) -> list[str]:
        vm = make_vm(domain_type=domain_type)
        found = platform_refusals(vm, old, node, bridges=BRIDGES, silent_s=0, silent_after_s=30)
        return [refusal.code for refusal in found]

    assert codes("qemu") == ["qemu_unsafe_emulation", "qemu_unsafe_emulation"]
    assert codes("kvm") == []


def test_a_node_that_is_silent_or_ill_takes_nothing() -> None:
    """Silence wins over what the node last said about its health."""
    ill = make_node(problems=("libvirt is down",))

    def code(silent_s: float) -> list[str]:
        found = platform_refusals(make_vm(), VERSIONS, ill, bridges=BRIDGES, silent_s=silent_s, silent_after_s=30)
        return [refusal.code for refusal in found]

    assert code(1) == ["node_unhealthy"]
    assert code(31) == ["node_unreachable"]


def test_all_findings_are_named_at_once() -> None:
    """One look at a quote's refusal tells everything."""
    found = check({"cpu_model": "x", "machine": "y", "firmware": Firmware.UEFI}, {"bridges": ()})

    assert [refusal.code for refusal in found] == [
        "cpu_model_unusable",
        "machine_type_unsupported",
        "firmware_unsupported",
        "bridge_missing",
    ]


@pytest.mark.parametrize(
    ("bridges", "ours"),
    [
        (Bridges({}), "br-donor"),
        (Bridges({"br-donor": "vmbr0"}), "vmbr0"),
        (Bridges({"other": "x"}, default="vmbr9"), "vmbr9"),
        (Bridges({"br-donor": "vmbr0"}, default="vmbr9"), "vmbr0"),
    ],
)
def test_bridge_is_mapped_then_default_then_same(bridges: Bridges, ours: str) -> None:
    """An operator's map wins over the default, the default over the same name."""
    assert bridges.here("br-donor") == ours


def test_every_blocker_is_refused() -> None:
    """The recipient looks for itself."""
    assert [r.evidence for r in blocker_refusals(make_vm(blockers=("a", "b")))] == ["a", "b"]
    assert blocker_refusals(make_vm()) == ()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"uuid": VM_UUID}, "uuid_collision"),
        ({"name": "web-1"}, "name_collision"),
        ({"macs": (MAC,)}, "mac_collision"),
    ],
)
def test_collisions_with_vms_that_are_here(change: dict[str, Any], code: str) -> None:
    """UUID, name and MAC are unique in a provider, whatever node."""
    nodes = [make_node("beta-1"), make_node("beta-2", vms=(make_summary(**change),))]

    found = collision_refusals(make_vm(), nodes, [])

    assert [refusal.code for refusal in found] == [code]
    assert "beta-2" in found[0].evidence


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"vm_uuid": VM_UUID}, "uuid_collision"),
        ({"vm_name": "web-1"}, "name_collision"),
        ({"macs": (MAC,)}, "mac_collision"),
    ],
)
def test_collisions_with_vms_that_are_coming(change: dict[str, Any], code: str) -> None:
    """A live reservation holds UUID, name and MAC; a past one does not."""
    coming = replace(HELD, **change)

    assert [r.code for r in collision_refusals(make_vm(), [], [coming])] == [code]
    assert collision_refusals(make_vm(), [], [replace(coming, reserved=False)]) == ()


@given(st.tuples(*[st.integers(0, 99)] * 3), st.tuples(*[st.integers(0, 99)] * 3))
def test_qemu_is_never_older_than_the_donors(here: tuple[int, int, int], theirs: tuple[int, int, int]) -> None:
    """With KVM the version rule is the order of versions, nothing else."""
    node = make_node(platform=make_platform(versions=versions(qemu=here), accelerators=("kvm",)))
    donor = versions(qemu=theirs)

    found = platform_refusals(make_vm(domain_type="kvm"), donor, node, bridges=BRIDGES, silent_s=0, silent_after_s=1)

    assert ([r.code for r in found] == ["qemu_too_old"]) == (here < theirs)


def test_a_vlan_is_a_network_of_its_own() -> None:
    """It is carried where the map names it, and no default or bridge stands for it."""
    assert Bridges({"br-donor": "vmbr0"}, default="vmbr9").of(TAGGED) is None
    assert Bridges({"br-donor.193": "vmbr1"}).of(TAGGED) == "vmbr1"
    two = TAGGED.model_copy(update={"vlan": Vlan(tags=(10, 20), trunk=True)})
    assert Bridges({"br-donor.10+20": "vmbr2"}).of(two) == "vmbr2"


def test_a_card_in_qemus_own_network_stays_there() -> None:
    """Unless the map names a bridge for such cards."""
    user = Nic(mac=MAC, model="virtio", bridge="", kind="user")

    assert Bridges({}, default="vmbr9").of(user) == ""
    assert Bridges({"user": "vmbr1"}).of(user) == "vmbr1"
    assert check({"nics": (user,)}) == []


def test_an_empty_drive_needs_no_size() -> None:
    """It has no contents."""
    drive = make_vm().disks[0].model_copy(update={"empty": True, "virtual_size_bytes": 0, "format": "none"})

    assert check({"disks": (drive,)}) == []
