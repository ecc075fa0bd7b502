"""Media that stay behind: which drives are meant by what the tenant says, and what is left of the VM."""

from __future__ import annotations

from services.recipient_agent.testing import make_vm
from shared.ejecting import ejected_targets, not_ejectable, without_media
from shared.messages.vm import Disk, VmDescription


def drive(target: str, device: str = "cdrom", *, empty: bool = False, read_only: bool = True) -> Disk:
    """A disk or drive."""
    return Disk(
        target=target,
        bus="sata",
        format="raw",
        virtual_size_bytes=100,
        allocated_bytes=50,
        read_only=read_only,
        file_bytes=100,
        device=device,
        empty=empty,
    )


VM: VmDescription = make_vm(
    disks=(drive("vda", "disk"), drive("sda"), drive("sdb", empty=True), drive("fda", "floppy"))
)


def test_all_are_the_drives_with_a_medium() -> None:
    """Neither a read-only disk, nor an empty drive."""
    assert ejected_targets(VM, ("all",)) == {"sda", "fda"}
    assert ejected_targets(VM, ("sda", "vda")) == {"sda"}
    assert ejected_targets(VM, ()) == frozenset()


def test_what_cannot_be_ejected_is_named() -> None:
    """Each with what could be; that nothing is inserted is no error of `all`."""
    assert not_ejectable(VM, ("sda", "all")) == ()
    assert not_ejectable(VM, ("vda", "sdb")) == (
        "vda is no drive with a read-only medium; these are: sda, fda",
        "sdb is no drive with a read-only medium; these are: sda, fda",
    )
    assert not_ejectable(VM.model_copy(update={"disks": VM.disks[:1]}), ("all", "sda")) == (
        "sda is no drive with a read-only medium; these are: none",
    )


def test_a_medium_that_can_be_written_goes_with_the_vm() -> None:
    """What the guest wrote to its floppy is its own, and libvirt does not migrate without it."""
    floppy = VM.model_copy(update={"disks": (drive("fda", "floppy", read_only=False),)})
    assert ejected_targets(floppy, ("all",)) == frozenset()
    assert not_ejectable(floppy, ("all",)) == ()
    assert not_ejectable(floppy, ("fda",)) == ("fda is no drive with a read-only medium; these are: none",)


def test_what_speaks_against_a_medium_goes_with_it() -> None:
    """And nothing else: neither what speaks against another drive, nor what two of them have in common."""
    disks = (
        drive("sda").model_copy(update={"medium_blockers": ("sda is in the network", "both")}),
        drive("sdb").model_copy(update={"medium_blockers": ("sdb is on a block device", "both")}),
    )
    vm = VM.model_copy(
        update={"disks": disks, "blockers": ("sda is in the network", "sdb is on a block device", "both", "a card")}
    )

    assert without_media(vm, ("sda",)).blockers == ("sdb is on a block device", "both", "a card")
    assert without_media(vm, ("all",)).blockers == ("a card",)
    assert all(not disk.medium_blockers for disk in without_media(vm, ("all",)).disks)


def test_the_drive_is_left_and_takes_no_room() -> None:
    """The guest sees its drive as before, and empty."""
    left = without_media(VM, ("sda",))
    assert [(disk.target, disk.empty, disk.virtual_size_bytes, disk.file_bytes) for disk in left.disks] == [
        ("vda", False, 100, 100),
        ("sda", True, 0, 0),
        ("sdb", True, 100, 100),
        ("fda", False, 100, 100),
    ]
    assert without_media(VM, ()) is VM
