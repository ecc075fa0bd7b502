"""Base images by their content: what lies beneath a VM's overlays at the donor, and the recipient's catalogue.

An image is identified by the BLAKE3 digest of the whole file, its size and its format, never by a name. A digest is
remembered for as long as the file keeps its size, time and inode. Files are only read; no overlay is made here and
nothing is sent. Calls block: use threads, and only one for what reads whole images (`ImageReader`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from blake3 import blake3
from pydantic import Field

from services.node_agent.dedup.blocks import STAMP_BYTES, stamp_of
from services.node_agent.hypervisor import disk_images
from shared.domain import LayerFacts
from shared.logs import get_logger
from shared.messages.base import Bytes, Value
from shared.messages.vm import DiskTarget

log = get_logger(__name__)

MAX_DISKS: Final = 64
KNOWN_WITHIN_S: Final = 8.0
"""At the donor, for all base images of a VM: an early start of the transfer is worth more than an overlay. What is read
meanwhile is remembered and serves the next port."""
_READ_BYTES: Final = 4 << 20
_DIGEST_BYTES: Final = 32
_NAME_BYTES: Final = 16
_SUFFIX: Final = ".image"

K = TypeVar("K")
V = TypeVar("V")


class BaseImage(Value):
    """An image that stands alone, by its content."""

    blake3: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Bytes = Field(description="Of the file, not of the disk in it.")
    format: Literal["raw", "qcow2"]


class OverlaysWanted(Value):
    """The donor's question: which of the VM's disks are overlays, and on what. All of them, or none, become so again.

    One answer for all: libvirt's flag for it belongs to a migration, not to a disk. A disk that is not named has
    nothing beneath it; it is copied whole either way.
    """

    bases: Annotated[dict[DiskTarget, BaseImage], Field(min_length=1, max_length=MAX_DISKS)]


class BaseImages:
    """Base images of one node. Digests of images that were read are kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Reads in progress raise OSError from now on, because this process ends."""
        self._stopped.set()

    def look_up(self, path: Path) -> BaseImage | None:
        """The image, from memory or read whole; None where it does not stand alone. Raises OSError, DiskImageError."""
        image_format = disk_images.standalone_format(str(path))
        if image_format is None:
            return None
        before = path.stat()
        digest = self._remembered(path, before)
        if digest is None:
            digest = self._read_whole(path)
            if stamp_of(path.stat()) != stamp_of(
                before
            ):  # unlike a block, a base is not verified again when it is used
                raise OSError(errno.ESTALE, "changed while it was read", str(path))
            self._remember(path, before, digest)
        return BaseImage(blake3=digest.hex(), size_bytes=before.st_size, format=image_format)

    def beneath(self, layers: Mapping[str, Sequence[LayerFacts]]) -> OverlaysWanted | None:
        """What to ask for, by target; None where a disk has more beneath it than one image that stands alone.

        Raises OSError, DiskImageError.
        """
        bases: dict[str, BaseImage] = {}
        for target, below in layers.items():
            if len(below) != 1 or below[0].path is None:
                return None
            found = self.look_up(Path(below[0].path))
            if found is None or found.format != below[0].format:
                return None
            bases[target] = found
        return OverlaysWanted(bases=bases) if 0 < len(bases) <= MAX_DISKS else None

    def find(self, catalogue: Path | None, wanted: Collection[BaseImage]) -> Mapping[BaseImage, Path]:
        """The wanted images that the catalogue has, with their files. An image that was not read yet counts as missing.

        Raises OSError if the catalogue cannot be listed.
        """
        found: dict[BaseImage, Path] = {}
        sizes = {image.size_bytes for image in wanted}
        for path in published(catalogue):
            try:
                image = self._known(path, sizes)
            except (OSError, disk_images.DiskImageError) as error:
                log.warning("base image unreadable", file=str(path), reason=str(error))
                continue
            if image is not None and image in wanted:
                found.setdefault(image, path)
        return found

    def _known(self, path: Path, sizes: Collection[int]) -> BaseImage | None:
        info = path.stat()
        digest = self._remembered(path, info) if info.st_size in sizes else None
        image_format = disk_images.standalone_format(str(path)) if digest is not None else None
        if digest is None or image_format is None:
            return None
        return BaseImage(blake3=digest.hex(), size_bytes=info.st_size, format=image_format)

    def sweep(self, before_s: float) -> None:
        """Forget what was not looked up since `before_s`, Unix time."""
        for record in self._folder.glob(f"*{_SUFFIX}"):
            if record.stat().st_mtime < before_s:
                record.unlink(missing_ok=True)

    def _remembered(self, path: Path, info: os.stat_result) -> bytes | None:
        """The digest, if it belongs to this version of the file. A half-written record has another length or stamp."""
        record = self._record_of(path)
        try:
            data = record.read_bytes()
            os.utime(record)
        except FileNotFoundError:
            return None
        stamp, digest = data[:STAMP_BYTES], data[STAMP_BYTES:]
        return digest if stamp == stamp_of(info) and len(digest) == _DIGEST_BYTES else None

    def _remember(self, path: Path, info: os.stat_result, digest: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = self._record_of(path)
        draft = record.with_suffix(f"{_SUFFIX}-new")  # a BlockIndex may be in the same folder
        draft.write_bytes(stamp_of(info) + digest)
        os.replace(draft, record)

    def _read_whole(self, path: Path) -> bytes:
        hasher = blake3()
        with open(path, "rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                hasher.update(data)
                if self._stopped.is_set():
                    raise OSError(errno.EINTR, "the node agent ends", str(path))
        return hasher.digest()

    def _record_of(self, path: Path) -> Path:
        return self._folder / (blake3(os.fsencode(path)).hexdigest(_NAME_BYTES) + _SUFFIX)


def published(catalogue: Path | None) -> list[Path]:
    """Regular files of a catalogue, no links: what is published lies there."""
    if catalogue is None or not catalogue.is_dir():
        return []
    return sorted(path for path in catalogue.iterdir() if path.is_file() and not path.is_symlink())


class ImageReader:
    """The one thread of a node that reads base images, however many wait for it.

    Images are large and may lie on slow disks: with asyncio's shared threads, their reads would soon occupy all of
    them.
    """

    def __init__(self, images: BaseImages) -> None:
        self._images = images
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="base-images")

    def close(self) -> None:
        """End what is being read, and begin nothing more."""
        self._images.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def beneath(self, layers: Mapping[str, Sequence[LayerFacts]]) -> OverlaysWanted | None:
        """As `BaseImages.beneath`; None also if an image cannot be read, or not within KNOWN_WITHIN_S."""
        try:
            async with asyncio.timeout(KNOWN_WITHIN_S):
                return await self._read(self._images.beneath, layers)
        except (OSError, disk_images.DiskImageError, TimeoutError) as error:
            reason = str(error) or f"not read within {KNOWN_WITHIN_S:.0f} s; the next port can use it"
            log.warning("base images of the VM unknown", reason=reason)
            return None

    async def read_ahead(self, files: Iterable[Path]) -> None:
        """Read these so that a port finds them known. Other requests are served in between."""
        for path in files:
            await self._read(self._remember, path)

    def _remember(self, path: Path) -> None:
        try:
            self._images.look_up(path)
        except (OSError, disk_images.DiskImageError) as error:
            log.warning("base image unreadable", file=str(path), reason=str(error))

    async def _read(self, read: Callable[[K], V], of: K) -> V:
        return await asyncio.get_running_loop().run_in_executor(self._thread, read, of)
