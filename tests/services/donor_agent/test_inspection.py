"""What a tenant may see of its own VM."""

from __future__ import annotations

import pytest

from services.donor_agent.inspection import bounded, details_of, may_be_asked
from services.donor_agent.testing import DESCRIPTION
from shared.messages.approval import MAX_REASONS
from shared.messages.base import Refusal
from shared.messages.vm import (
    CpuFacts,
    CpuFeature,
    CpuMode,
    Disk,
    Firmware,
    FirmwareFacts,
    FirmwareInterface,
    Nic,
    Vlan,
)
from shared.messages.vm_details import MAX_CPU_FEATURES, MAX_DISKS, MAX_NICS, VmDetails


def reason(code: str, evidence: str = "found") -> Refusal:
    return Refusal(code=code, rule="a rule", evidence=evidence)


def test_sizes_devices_and_firmware() -> None:
    """What the tenant bought and what the guest sees; the current sizes, and the maximum beside them."""
    vm = DESCRIPTION.model_copy(
        update={
            "vcpus": 2,
            "vcpus_max": 32,
            "memory_current_bytes": 1 << 28,
            "firmware": Firmware.UEFI,
            "firmware_facts": FirmwareFacts(interface=FirmwareInterface.PFLASH, secure_boot=True, nvram=True),
            "cpu": CpuFacts(mode=CpuMode.CUSTOM, model="EPYC"),
            "nics": (
                Nic(mac="52:54:00:00:00:01", model="virtio", bridge="vmbr0"),
                Nic(
                    mac="52:54:00:00:00:02",
                    model="e1000",
                    bridge="",
                    kind="network",
                    network="lan",
                    vlan=Vlan(tags=(7,)),
                ),
            ),
        }
    )
    details = details_of(vm)
    assert (details.vcpus, details.vcpus_max) == (2, 32)
    assert (details.memory_bytes, details.memory_current_bytes) == (1 << 29, 1 << 28)
    assert (details.firmware, details.secure_boot, details.nvram) == (Firmware.UEFI, True, True)
    assert [(disk.target, disk.size_bytes) for disk in details.disks] == [("vda", 1 << 28)]
    assert [(nic.network, nic.vlan) for nic in details.nics] == [("vmbr0", None), ("lan", Vlan(tags=(7,)))]


def test_what_is_the_hosts_own_stays() -> None:
    """Paths of kernel and initrd, the expanded CPU and the needs of the host are nobody else's business."""
    vm = DESCRIPTION.model_copy(
        update={"kernel": "/secret/vmlinuz", "initrd": "/secret/initrd", "cpu": CpuFacts(expanded="<cpu secret='1'/>")}
    )
    assert "secret" not in details_of(vm).model_dump_json()


def test_what_is_too_much_is_counted() -> None:
    """A message holds so many; the others are not forgotten."""
    disk = Disk(target="vda", bus="x" * 4000, format="raw", virtual_size_bytes=1, allocated_bytes=1)
    nic = Nic(mac="52:54:00:00:00:01", model="a\x1bb", bridge="vmbr0")
    features = tuple(CpuFeature(name=f"f{number}", policy="require") for number in range(MAX_CPU_FEATURES + 3))
    many = {"disks": (disk,) * (MAX_DISKS + 2), "nics": (nic,) * (MAX_NICS + 1), "cpu": CpuFacts(features=features)}
    details = details_of(DESCRIPTION.model_copy(update=many))
    assert details.omitted == ("3 more CPU features", "2 more disks", "1 more network cards")
    assert len(details.disks[0].bus) == 256
    assert details.nics[0].model == "a\N{REPLACEMENT CHARACTER}b"
    assert VmDetails.model_validate_json(details.model_dump_json()) == details


def test_each_reason_once_and_not_too_many() -> None:
    """The last one counts those that have no room."""
    assert bounded((reason("a"), reason("a"), reason("b"))) == (reason("a"), reason("b"))
    many = bounded(reason("vm_blocked", str(number)) for number in range(MAX_REASONS + 5))
    assert len(many) == MAX_REASONS
    assert many[-1].evidence == "there are 6 more reasons"


@pytest.mark.parametrize("code", ["not_owner", "unknown_vm", "owner_unclear", "node_unreachable", "port_under_way"])
def test_when_the_node_is_not_asked(code: str) -> None:
    """Not about another's VM, not in vain, and not about a VM that moves."""
    assert not may_be_asked((reason("legal_hold"), reason(code)))


@pytest.mark.parametrize("code", ["dues_open", "vm_not_running", "vm_unreadable"])
def test_when_the_node_is_asked(code: str) -> None:
    """What binds the VM hides nothing of it."""
    assert may_be_asked((reason("legal_hold"), reason(code)))
