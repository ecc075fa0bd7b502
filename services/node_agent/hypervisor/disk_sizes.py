"""How large each disk of a definition is, whatever it lies on: for counting, not for moving. Reads headers.

A size that nobody knows is None, and never 0: a VM that cannot be ported is still counted as what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.node_agent.hypervisor import disk_images
from shared.domain import DomainSource, parse

VolumeSize = Callable[[str, str], int | None]
"""Bytes of a volume, by the names of its pool and of itself."""


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """Where one disk's contents are. `path` is None for what is no file or block device of the host."""

    target: str
    kind: str
    format: str
    path: str | None
    pool: str = ""
    volume: str = ""
    name: str = ""
    """What a network disk is called at its server."""


def disk_places(xml: DomainSource) -> Iterator[DiskPlace]:
    """All disks that have contents, with drives whose medium is inserted. Raises `DomainXmlError`."""
    for disk in parse(xml).root.findall("devices/disk"):
        source, driver, target = disk.find("source"), disk.find("driver"), disk.find("target")
        if source is None:
            continue
        yield DiskPlace(
            target=(target.get("dev") if target is not None else None) or "?",
            kind=disk.get("type") or "file",
            format=(driver.get("type") if driver is not None else None) or "raw",
            path=source.get("file") or source.get("dev") or None,
            pool=source.get("pool") or "",
            volume=source.get("volume") or "",
            name=source.get("name") or "",
        )


def size_bytes(place: DiskPlace, volume_size: VolumeSize) -> int | None:
    """How many bytes a guest sees; None where this host's files and pools do not tell. Blocking."""
    if place.pool and place.volume:
        return volume_size(place.pool, place.volume)
    if place.path is None:
        return None
    try:
        return disk_images.virtual_size_bytes(place.path, place.format)
    except (disk_images.DiskImageError, ValueError):  # ValueError: a path that no file can have
        return None
