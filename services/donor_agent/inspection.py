"""What a tenant may see of its own VM at this provider, and when the VM's node is asked for it. Pure.

Paths, the host's CPU digest and whatever else is the host's own stay here; lists are bounded, and what is left out is
said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from shared.messages.approval import MAX_REASONS
from shared.messages.base import Refusal
from shared.messages.vm import Disk, Firmware, Nic, VmDescription
from shared.messages.vm_details import (
    MAX_CPU_FEATURES,
    MAX_DISKS,
    MAX_NICS,
    CpuDetails,
    DiskDetails,
    NicDetails,
    VmDetails,
)

_NOT_ASKED = frozenset({"unknown_vm", "not_owner", "owner_unclear", "node_unreachable", "port_under_way"})
"""Whose VM it is comes first; a node that is away is not asked; and nobody asks the hypervisor of a VM that moves."""
_MAX_WORD = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

T = TypeVar("T")


def may_be_asked(refusals: Iterable[Refusal]) -> bool:
    """Whether the VM's node is asked, by what the records say against a port."""
    return not any(refusal.code in _NOT_ASKED for refusal in refusals)


def bounded(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """Each reason once, at most as many as a message holds; then the last one counts the others."""
    unique = tuple(dict.fromkeys(refusals))
    if len(unique) <= MAX_REASONS:
        return unique
    left = len(unique) - MAX_REASONS + 1
    more = Refusal(code="more_reasons", rule="The VM is as it is described.", evidence=f"there are {left} more reasons")
    return (*unique[: MAX_REASONS - 1], more)


def details_of(vm: VmDescription) -> VmDetails:
    """The tenant's view of a VM that its node has described."""
    omitted: list[str] = []
    firmware = vm.firmware_facts
    return VmDetails(
        uuid=vm.uuid,
        name=vm.name,
        state=vm.state,
        architecture=_word(vm.architecture),
        machine=_word(vm.machine),
        domain_type=_word(vm.domain_type),
        vcpus=vm.vcpus,
        vcpus_max=vm.vcpus_max or vm.vcpus,
        memory_bytes=vm.memory_bytes,
        memory_current_bytes=vm.memory_bytes if vm.memory_current_bytes is None else vm.memory_current_bytes,
        cpu=CpuDetails(
            mode=vm.cpu.mode,
            model=vm.cpu.model,
            vendor=vm.cpu.vendor,
            features=_first(vm.cpu.features, MAX_CPU_FEATURES, "CPU features", omitted),
        ),
        firmware=vm.firmware,
        secure_boot=firmware is not None and firmware.secure_boot,
        nvram=firmware is not None and firmware.nvram and vm.firmware is not Firmware.BIOS,
        disks=tuple(_disk(disk) for disk in _first(vm.disks, MAX_DISKS, "disks", omitted)),
        nics=tuple(_nic(nic) for nic in _first(vm.nics, MAX_NICS, "network cards", omitted)),
        autostart=vm.autostart,
        persistent=vm.persistent,
        made_anew=vm.made_anew,
        not_kept=vm.not_kept,
        omitted=tuple(omitted),
    )


def _first(found: tuple[T, ...], most: int, what: str, omitted: list[str]) -> tuple[T, ...]:
    if len(found) > most:
        omitted.append(f"{len(found) - most} more {what}")
    return found[:most]


def _disk(disk: Disk) -> DiskDetails:
    return DiskDetails(
        target=disk.target,
        device=disk.device,
        bus=_word(disk.bus),
        format=_word(disk.format),
        kind=disk.kind,
        size_bytes=disk.virtual_size_bytes,
        read_only=disk.read_only,
        shared=disk.shared,
        empty=disk.empty,
        snapshots=len(disk.snapshots),
    )


def _nic(nic: Nic) -> NicDetails:
    return NicDetails(
        mac=nic.mac,
        model=_word(nic.model),
        kind=nic.kind,
        network=nic.network or _word(nic.bridge),
        port_group=nic.port_group,
        vlan=nic.vlan,
    )


def _word(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)[:_MAX_WORD]
