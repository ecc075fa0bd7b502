"""The platform check: one refusal per finding, none where all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recipient_agent.capacity import Held
from services.recipient_agent.network_map import NetworkMap
from services.recipient_agent.platform import (
    blocker_refusals,
    collision_refusals,
    judge_host,
)
from services.recipient_agent.testing import (
    MAC,
    VERSIONS,
    VM_UUID,
    make_node,
    make_places,
    make_platform,
    make_summary,
    make_vm,
)
from shared.messages.base import Refusal
from shared.messages.host import DeviceOffers, OtherArchitecture
from shared.messages.network import CardAddress, CardNetwork, VmNetwork
from shared.messages.vm import (
    CpuFacts,
    CpuMode,
    Disk,
    Firmware,
    FirmwareFacts,
    FirmwareInterface,
    HypervisorVersions,
    Need,
    Nic,
)

PLACES = make_places()
OFFERED = (DeviceOffers(accelerator="qemu", machines=("pc-q35-10.0",), offers={"video": ("vga",)}),)
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
        judge_host(
            make_vm(**(vm or {})), VERSIONS, view, places=PLACES, silent_s=1.0, silent_after_s=30.0, cpu=()
        ).refusals
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
        ({"cpu": CpuFacts(mode=CpuMode.MAXIMUM)}, {}, "host_cpu_differs", "not known"),
        ({"needs": (Need(kind="video", value="qxl"),)}, {"device_offers": OFFERED}, "device_unsupported", "qxl"),
        ({"firmware_facts": FirmwareFacts(interface=FirmwareInterface.PFLASH)}, {}, "firmware_unsupported", "size"),
        ({"kernel": "/etc/shadow"}, {}, "boot_file_missing", "/etc/shadow"),
        ({"initrd": "/boot-files/../etc/shadow"}, {}, "boot_file_missing", "shadow"),
        ({"machine": "q35"}, {"machine_aliases": {"q35": "pc-q35-10.0"}}, "machine_type_unsupported", "alias"),
        ({"machine": "pc-q35-11.0"}, {}, "machine_type_unsupported", "pc-q35-11.0"),
        ({"firmware": Firmware.UEFI}, {}, "firmware_unsupported", "uefi"),
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


def test_an_empty_drive_needs_no_size_and_no_format() -> None:
    """There is nothing in it that would have to be kept."""
    assert check({"disks": disk(empty=True, format="", virtual_size_bytes=0, device="cdrom")}) == []


def test_a_kernel_in_a_folder_that_is_here_is_let_in() -> None:
    """The quote says what the reservation will say."""
    assert check({"kernel": "/boot-files/vmlinuz", "initrd": "/boot-files/sub/initrd"}) == []


@pytest.mark.parametrize(
    ("vm", "codes"),
    [
        ({}, []),
        ({"machine": "pc-q35-9.2"}, ["machine_type_unsupported"]),
        ({"domain_type": "kvm"}, ["accelerator_unsupported"]),
        ({"architecture": "aarch64"}, ["architecture_unsupported"]),
    ],
)
def test_a_guest_of_another_architecture_that_the_host_runs(vm: dict[str, Any], codes: list[str]) -> None:
    """A 32-bit VM on a 64-bit host, with the machines and accelerators that libvirt offers to it."""
    other = OtherArchitecture(architecture="i686", accelerators=("qemu",), without=("pc-q35-9.2",))
    node = make_node(platform=make_platform(accelerators=("kvm", "qemu"), other_architectures=(other,)))
    guest = make_vm(**{"architecture": "i686", **vm})

    found = judge_host(guest, VERSIONS, node, places=PLACES, silent_s=0, silent_after_s=30, cpu=()).refusals

    assert [refusal.code for refusal in found] == codes


def test_a_cpu_that_the_node_has_compared() -> None:
    """libvirt's own answer decides, not the model's name."""
    vm = make_vm(cpu=CpuFacts(mode=CpuMode.CUSTOM, model="Skylake-Client-IBRS"), cpu_model="Skylake-Client-IBRS")
    no = Refusal(code="cpu_incompatible", rule="x", evidence="features: hle, rtm")

    def codes(answer: tuple[Refusal, ...] | None) -> list[str]:
        found = judge_host(vm, VERSIONS, make_node(), places=PLACES, silent_s=0, silent_after_s=30, cpu=answer).refusals
        return [refusal.code for refusal in found]

    assert codes(()) == []
    assert codes((no,)) == ["cpu_incompatible"]
    assert codes(None) == ["cpu_not_compared"]


def test_old_qemu_is_refused_under_emulation_on_either_side() -> None:
    """QEMU before 10 corrupts guests that migrate without KVM; with KVM it serves."""
    old = versions(qemu=(7, 2, 0))
    node = make_node(platform=make_platform(versions=old, accelerators=("kvm", "qemu")))

    def codes(domain_type: str) -> list[str]:
        vm = make_vm(domain_type=domain_type)
        found = judge_host(vm, old, node, places=PLACES, silent_s=0, silent_after_s=30, cpu=()).refusals
        return [refusal.code for refusal in found]

    assert codes("qemu") == ["qemu_unsafe_emulation", "qemu_unsafe_emulation"]
    assert codes("kvm") == []


def test_a_node_that_is_silent_or_ill_takes_nothing() -> None:
    """Silence wins over what the node last said about its health."""
    ill = make_node(problems=("libvirt is down",))

    def code(silent_s: float) -> list[str]:
        found = judge_host(
            make_vm(), VERSIONS, ill, places=PLACES, silent_s=silent_s, silent_after_s=30, cpu=()
        ).refusals
        return [refusal.code for refusal in found]

    assert code(1) == ["node_unhealthy"]
    assert code(31) == ["node_unreachable"]


def test_all_findings_are_named_at_once() -> None:
    """One look at a quote's refusal tells everything."""
    maximum = CpuFacts(mode=CpuMode.MAXIMUM)
    found = check({"cpu": maximum, "machine": "y", "firmware": Firmware.UEFI}, {"bridges": ()})

    assert [refusal.code for refusal in found] == [
        "host_cpu_differs",
        "machine_type_unsupported",
        "firmware_unsupported",
        "bridge_missing",
    ]


@pytest.mark.parametrize(
    ("bridges", "ours"),
    [
        (NetworkMap({}), "br-donor"),
        (NetworkMap({"br-donor": "vmbr0"}), "vmbr0"),
        (NetworkMap({"other": "x"}, default="vmbr9"), "vmbr9"),
        (NetworkMap({"br-donor": "vmbr0"}, default="vmbr9"), "vmbr0"),
    ],
)
def test_bridge_is_mapped_then_default_then_same(bridges: NetworkMap, ours: str) -> None:
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

    found = judge_host(
        make_vm(domain_type="kvm"), donor, node, places=PLACES, silent_s=0, silent_after_s=1, cpu=()
    ).refusals

    assert ([r.code for r in found] == ["qemu_too_old"]) == (here < theirs)


def test_the_machine_of_the_next_start_must_be_there_too() -> None:
    """The recipient's libvirt would refuse to define it after the switchover."""
    live = make_vm().machine
    found = check({"needs": (Need(kind="machine", value=live), Need(kind="machine", value="pc-q35-99.0"))})

    assert [each.code for each in found] == ["machine_type_unsupported"]
    assert found[0].evidence.startswith("pc-q35-99.0 is not known to QEMU")
    assert check({"needs": (Need(kind="machine", value=live),)}) == []


def test_link_local_addresses_never_collide() -> None:
    """They mean another host on every link; all others belong to one VM, also to one that came by a port long ago."""
    addresses = tuple(CardAddress(address=each) for each in ("fe80::1", "192.0.2.7"))
    vm = make_vm(network=VmNetwork(cards=(CardNetwork(mac=MAC, addresses=addresses),)))
    nodes = [make_node(vms=(make_summary(addresses=("fe80::1",)),))]
    assert collision_refusals(vm, nodes, []) == ()
    (found,) = collision_refusals(vm, nodes, [replace(HELD, addresses=("192.0.2.7",), reserved=False)])
    assert (found.code, "192.0.2.7 belongs to VM shop" in found.evidence) == ("address_collision", True)
