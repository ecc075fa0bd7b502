"""Which files and devices of its host a domain XML names: disks, what lies beneath, and what it boots from. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from shared.domain.parsing import DomainSource, parse, text_of

_MEMORY_FILES = ("devices/memory/source/path", "devices/pstore/path")
_BOOT_FILES = ("os/kernel", "os/initrd", "os/dtb", "os/loader", "os/nvram")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file or block device, by its path, or by its volume where it is one of a storage pool.

    `may_have_backing` is False for a raw image: what a guest writes into one is no header.
    """

    path: str | None
    pool: str = ""
    volume: str = ""
    may_have_backing: bool = False


def named_files(xml: DomainSource) -> tuple[NamedFile, ...]:
    """All of them, in the order of the XML. Raises `DomainXmlError`."""
    root = parse(xml).root
    booted = (text_of(root, path) for path in _BOOT_FILES)
    variables = (source.get("file") for source in root.findall("os/nvram/source"))
    memory = ((element.text or "").strip() for path in _MEMORY_FILES for element in root.findall(path))
    plain = (NamedFile(path) for path in (*booted, *variables, *memory) if path)
    return (*(file for disk in root.findall("devices/disk") for file in _of_disk(disk)), *plain)


def _of_disk(disk: etree._Element) -> Iterator[NamedFile]:
    for source in disk.iter("source"):
        path, pool, volume = source.get("file") or source.get("dev"), source.get("pool"), source.get("volume")
        if path or (pool and volume):
            yield NamedFile(path, pool or "", volume or "", may_have_backing=_format_of(source) != "raw")


def _format_of(source: etree._Element) -> str | None:
    """The disk's own image has its format in the driver, a layer beneath and a mirror in a sibling."""
    holder = source.getparent()
    if holder is None:
        return None
    named = holder.find("driver") if holder.tag == "disk" else holder.find("format")
    return named.get("type") if named is not None else None
