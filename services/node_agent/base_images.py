"""Base images: which ones disks lie on, what they are, and where this provider's own copy is.

An image is what its bytes are, read in a format; its name says nothing. So a disk that is an overlay at the donor can
be an overlay at the recipient, on that provider's copy: the path always comes from the catalogue, never from a message.
`BaseImages` is for ports; the rest blocks. What is here makes no image and decides nothing for a port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, Field

from services.node_agent.block_files import BlockIndex
from services.node_agent.disk_images import FORMATS, DiskImageError, format_alone
from shared.domain_xml import DiskFacts
from shared.messages.vm import Sha256

log = structlog.stdlib.get_logger(__name__)

OVERLAY_FORMAT: Final = "qcow2"

KNOWN_WITHIN_S: Final = 8.0
"""For all base images of a VM, at either end: a transfer that begins in time is worth more than an overlay. What is
read meanwhile is remembered, and serves the next port."""

K = TypeVar("K")
V = TypeVar("V")


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


class BaseImages:
    """The base images of a node, for its ports.

    One thread reads them, however many ports wait: they are large, and other work needs threads, too.
    """

    def __init__(self, folder: Path, index: BlockIndex) -> None:
        """`folder` is the catalogue."""
        self._catalogue = Catalogue(folder, index)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="base-images")

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def identify(self, lowers: Mapping[str, Lower]) -> dict[str, BaseImage]:
        """What the images are that disks lie on, by the disks' targets; without those that are not known in time."""
        return await self._in_time(lowers, self._identify)

    async def find(self, wanted: Mapping[str, BaseImage]) -> dict[str, Path]:
        """The published files that are these images, by target; without those that are not there or known in time."""
        return await self._in_time(wanted, self._catalogue.find)

    async def read_ahead(self, files: Iterable[Path]) -> None:
        """Know these before a port comes that needs them."""
        for path in files:
            await self._read(self._remember, path)

    async def read_published(self) -> None:
        """Know all of the catalogue."""
        await self.read_ahead(await asyncio.to_thread(published, self._catalogue.folder))

    def _identify(self, lower: Lower) -> BaseImage | None:
        return identify(lower, self._catalogue.index)

    def _remember(self, path: Path) -> None:
        try:
            self._catalogue.index.digest(path)
        except OSError as error:
            log.warning("a base image cannot be known", file=str(path), reason=str(error))

    async def _read(self, read: Callable[[K], V], of: K) -> V:
        return await asyncio.get_running_loop().run_in_executor(self._thread, read, of)

    async def _in_time(self, asked: Mapping[str, K], find: Callable[[K], V | None]) -> dict[str, V]:
        found: dict[str, V] = {}
        try:
            async with asyncio.timeout(KNOWN_WITHIN_S):
                for target, each in asked.items():
                    if (answer := await self._read(find, each)) is not None:
                        found[target] = answer
        except (OSError, DiskImageError, TimeoutError) as error:
            log.warning("a base image cannot be known", reason=str(error) or type(error).__name__)
        return found
