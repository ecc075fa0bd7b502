"""Media that the tenant leaves behind: which drives are meant, and what the VM is without them. Pure.

The drive is empty at the recipient, and the donor's is not touched. libvirt takes that for a medium that can only be
read; without the contents of one that the guest may write (a floppy) it calls the migration unsafe, so such a medium
goes with the VM like a disk.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.messages.vm import VmDescription

ALL = "all"
REMOVABLE = frozenset({"cdrom", "floppy"})


def ejected_targets(vm: VmDescription, eject: Iterable[str]) -> frozenset[str]:
    """The drives whose media stay behind. `eject` are targets, or ``all``; a drive that is no removable one, is empty,
    or has a medium that can be written, is not among them.
    """
    asked = set(eject)
    return frozenset(target for target in _ejectable(vm) if ALL in asked or target in asked)


def not_ejectable(vm: VmDescription, eject: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each target that was asked for and has no medium that can stay behind."""
    there = _ejectable(vm)
    has = ", ".join(there) or "none"
    return tuple(
        f"{target} is no drive with a read-only medium; these are: {has}"
        for target in eject
        if target not in (*there, ALL)
    )


def without_media(vm: VmDescription, eject: Iterable[str]) -> VmDescription:
    """The same VM with these drives empty: what the recipient needs room for, what it makes, and what then speaks
    against it.
    """
    gone = ejected_targets(vm, eject)
    if not gone:
        return vm
    kept = {line for disk in vm.disks if disk.target not in gone for line in disk.medium_blockers}
    lost = {line for disk in vm.disks if disk.target in gone for line in disk.medium_blockers} - kept
    blockers = tuple(line for line in vm.blockers if line not in lost)
    empty: dict[str, object] = {
        "virtual_size_bytes": 0,
        "allocated_bytes": 0,
        "beneath_bytes": 0,
        "file_bytes": 0,
        "empty": True,
        "medium_blockers": (),
    }
    disks = tuple(disk.model_copy(update=empty) if disk.target in gone else disk for disk in vm.disks)
    return vm.model_copy(update={"disks": disks, "blockers": blockers})


def _ejectable(vm: VmDescription) -> tuple[str, ...]:
    return tuple(disk.target for disk in vm.disks if disk.device in REMOVABLE and disk.read_only and not disk.empty)
