"""Base images: which ones disks lie on, what they are, and where this provider's own copy is.

An image is what its bytes are, read in a format; its name says nothing. So a disk that is an overlay at the donor can
be an overlay at the recipient, on that provider's copy: the path always comes from the catalogue, never from a message.
What is here makes no image and decides nothing for a port. Blocking calls: use threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import structlog
from pydantic import BaseModel, ConfigDict, Field

from services.node_agent.block_files import BlockIndex
from services.node_agent.disk_images import FORMATS, DiskImageError, format_alone
from services.node_agent.page_codec.known_exchange import MAX_OFFERS
from shared.domain_xml import DiskFacts
from shared.messages.vm import Sha256

log = structlog.stdlib.get_logger(__name__)

OVERLAY_FORMAT: Final = "qcow2"


class BaseImage(BaseModel):
    """What an image is: two that are equal here show a guest the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blake3: Sha256
    size_bytes: Annotated[int, Field(ge=0)]
    format: Annotated[str, Field(pattern=r"^(raw|qcow2)$")]


@dataclass(frozen=True, slots=True)
class Lower:
    """The one image that a disk lies on: its file here, and the format that QEMU reads it in."""

    path: Path
    format: str


def lowers_of(disks: Iterable[DiskFacts]) -> dict[str, Lower]:
    """The images that disks lie on, by the disks' targets; empty where these disks cannot arrive as overlays. Pure.

    libvirt copies either all layers of all disks or the top layer of each. So every disk must be known whole: it is a
    file of its own, or a qcow2 image on exactly one other file.
    """
    found: dict[str, Lower] = {}
    for disk in disks:
        match disk.backing:
            case ():
                continue
            case (lower,) if lower.source and lower.format in FORMATS and disk.format == OVERLAY_FORMAT:
                found[disk.target] = Lower(Path(lower.source), lower.format)
            case _:
                return {}
    return found


def published(folder: Path | None) -> list[Path]:
    """Regular files of the catalogue, no links: what is published lies there."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def index_published(folder: Path, index: BlockIndex, *, whole: bool) -> None:
    """Read the catalogue ahead of ports: its blocks, and `whole` files for overlays. Raises OSError."""
    for path in published(folder):
        index.look_up(path, limit=MAX_OFFERS)
        if whole:
            index.digest(path)


def identify(lower: Lower, index: BlockIndex) -> BaseImage | None:
    """What an image is; None where its bytes are not all of it, or are read in a format that is not its own.

    Raises OSError, DiskImageError.
    """
    if not lower.path.is_file() or format_alone(str(lower.path)) != lower.format:
        return None
    digest = index.digest(lower.path)
    return BaseImage(blake3=digest.hex(), size_bytes=lower.path.stat().st_size, format=lower.format)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A provider's published images."""

    folder: Path
    index: BlockIndex

    def find(self, wanted: BaseImage) -> Path | None:
        """The file that is this image. What cannot be read is none."""
        for path in published(self.folder):
            try:
                if path.stat().st_size == wanted.size_bytes and self._is(path, wanted):
                    return path
            except (OSError, DiskImageError) as error:
                log.warning("a base image cannot be known", file=str(path), reason=str(error))
        return None

    def _is(self, path: Path, wanted: BaseImage) -> bool:
        return identify(Lower(path, wanted.format), self.index) == wanted
