"""A VM without the media in its drives, and what of it speaks against a port only because of them. Pure.

A tenant may leave media behind. A drive that is emptied so has no contents that could be on a block device, in the
network or in a program of the host; whatever else is wrong with it stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lxml import etree

from shared.domain.blockers import is_empty_drive
from shared.domain.definition import Definition, DefinitionSource, read_definition
from shared.domain.findings import Finding
from shared.domain.parsing import Domain, target_of
from shared.domain.parts import part_name

_DISK = "devices/disk"
_OF_A_MEDIUM = ("source", "backingStore", "mirror", "encryption", "auth")


def without_media_in(source: DefinitionSource, targets: Collection[str] | None = None) -> Definition:
    """The definition with these drives empty, all of them for None. What is no drive with a medium that can only be
    read stays as it is. Raises `DomainXmlError`.
    """
    root = read_definition(source).domain.tree_copy()
    for drive in _drives(root):
        if targets is None or target_of(drive) in targets:
            for part in [part for part in drive if part.tag in _OF_A_MEDIUM]:
                drive.remove(part)
            drive.set("type", "file")
    return read_definition(Domain(root))


def medium_blockers(definition: Definition) -> dict[str, tuple[Finding, ...]]:
    """By drive, the blockers that are gone when its medium stays behind. Raises `DomainXmlError`."""
    drives = list(_drives(definition.domain.root)) if definition.blockers else []
    if not drives:
        return {}
    stay = set(without_media_in(definition).blockers)
    gone = [finding for finding in definition.blockers if finding not in stay]
    return {
        target_of(drive): tuple(finding for finding in gone if finding.part == part_name(drive, _DISK))
        for drive in drives
    }


def _drives(root: etree._Element) -> Iterator[etree._Element]:
    for disk in root.findall(_DISK):
        read_only = disk.get("device") == "cdrom" or disk.find("readonly") is not None
        if disk.get("device") in {"cdrom", "floppy"} and read_only and not is_empty_drive(disk):
            yield disk
