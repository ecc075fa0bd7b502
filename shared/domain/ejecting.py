"""Media that the tenant leaves behind: which drives are meant, and what the VM is without them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shared.messages.vm import VmDescription

ALL = "all"
REMOVABLE = frozenset({"cdrom", "floppy"})


def ejected_targets(vm: VmDescription, eject: Iterable[str]) -> frozenset[str]:
    """The drives whose media stay behind. `eject` are targets, or ``all``; a drive that is no removable one, or is
    empty, is not among them.
    """
    asked = set(eject)
    return frozenset(target for target in _with_medium(vm) if ALL in asked or target in asked)


def not_ejectable(vm: VmDescription, eject: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each target that was asked for and has no medium to eject."""
    there = _with_medium(vm)
    has = ", ".join(there) or "none"
    return tuple(f"{target} is no drive with a medium; it has {has}" for target in eject if target not in (*there, ALL))


def without_media(vm: VmDescription, eject: Iterable[str]) -> VmDescription:
    """The same VM with these drives empty: what the recipient needs room for, and what it makes."""
    gone = ejected_targets(vm, eject)
    if not gone:
        return vm
    empty = {"virtual_size_bytes": 0, "allocated_bytes": 0, "beneath_bytes": 0, "file_bytes": 0, "empty": True}
    disks = tuple(disk.model_copy(update=empty) if disk.target in gone else disk for disk in vm.disks)
    return vm.model_copy(update={"disks": disks})


def _with_medium(vm: VmDescription) -> tuple[str, ...]:
    return tuple(disk.target for disk in vm.disks if disk.device in REMOVABLE and not disk.empty)
