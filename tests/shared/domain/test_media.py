"""A VM without the media in its drives."""

from __future__ import annotations

import pytest

from shared.domain import DomainXmlError, build_for_host, describe, guest_abi_differences, leaving, without_media_in
from shared.domain.definition import read_definition
from shared.domain.media import medium_blockers
from tests.support.domain_samples import PLACES, with_device

DRIVE = (
    "<disk type='%s' device='%s'><driver name='qemu' type='raw'/>%s<target dev='sdb' bus='sata'/><readonly/>%s</disk>"
)
HTTP = "<source protocol='https' name='/x.iso'><host name='h' port='443'/></source>"
LAYERED = (
    "<source file='/i.iso'/><backingStore type='network'><format type='raw'/><source protocol='nbd' name='x'/>"
    "<backingStore/></backingStore>"
)


@pytest.mark.parametrize(
    ("kind", "medium"),
    [
        ("block", "<source dev='/dev/sr0'/>"),
        ("network", HTTP),
        ("volume", "<source pool='iso' volume='x.iso'/>"),
        ("file", LAYERED),
        ("file", "<source file='/l'><encryption format='luks'/></source>"),
    ],
)
@pytest.mark.parametrize("device", ["cdrom", "floppy"])
def test_a_medium_that_cannot_leave_may_stay_behind(kind: str, medium: str, device: str) -> None:
    """The blockers that are its own are told with its drive; the rest of the VM is tried and can be built."""
    xml = with_device(DRIVE % (kind, device, medium, ""))
    facts = describe(xml)

    assert facts.blockers
    assert facts.drives[1].medium_blockers == tuple(map(str, facts.blockers))
    assert facts.drives[0].medium_blockers == ()
    bare = without_media_in(xml)
    assert bare.blockers == ()
    assert leaving(xml, xml).findings == ()
    built = build_for_host(leaving(xml, xml).domain_xml, PLACES)
    assert [drive.empty for drive in describe(built).drives] == [False, True]
    assert guest_abi_differences(bare, built) == []


def test_what_is_wrong_with_the_drive_itself_stays() -> None:
    """So does what is wrong with another disk, also one that is read-only but no drive."""
    disk = "<disk type='block'><source dev='/dev/x'/><target dev='vdb' bus='virtio'/><readonly/></disk>"
    xml = with_device(DRIVE % ("network", "cdrom", HTTP, "<strange/>") + disk)

    found = medium_blockers(read_definition(xml))

    assert [finding.code for finding in found["sdb"]] == ["disk_kind"]
    assert "vdb" not in found
    assert [finding.code for finding in without_media_in(xml).blockers] == ["unknown_part", "disk_kind"]


def test_only_what_is_asked_for_is_emptied() -> None:
    """By target; a disk is no drive, and an empty drive has nothing to lose."""
    xml = with_device(DRIVE % ("block", "cdrom", "<source dev='/dev/sr0'/>", ""))

    assert without_media_in(xml, ("vda", "sdc")).blockers == read_definition(xml).blockers
    assert without_media_in(xml, ("sdb",)).blockers == ()
    assert medium_blockers(read_definition(with_device(DRIVE % ("file", "cdrom", "", "")))) == {}


def test_a_drive_without_a_target_is_an_error() -> None:
    """As everywhere."""
    with pytest.raises(DomainXmlError, match="no target"):
        without_media_in(with_device("<disk device='cdrom'><source dev='/dev/sr0'/></disk>"), ("sda",))
