"""Read-only disks and inserted media cross as files, before the migration: QEMU never copies them, libvirt refuses to.

Both ends. It uses one stream of the disk lane labelled READ_ONLY (format: `page_codec.disk.image_stream`). The donor
reads its files; contents that the recipient has go as references. The recipient writes into files that it made before,
compares size and SHA-256 with what the donor says at the end, and answers when the file is on its disk. Only then
either side lets libvirt begin. A lane that is interrupted goes on where it was; one that fails ends the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from services.node_agent.dedup.blocks import stamp_of
from services.node_agent.hypervisor.disk_images import DiskImageError, virtual_size_bytes
from services.node_agent.hypervisor.read_only_images import check_stored, open_made, open_source
from services.node_agent.lanes.arrivals import Arrivals
from services.node_agent.lanes.core.errors import QuestionError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentMissingError
from services.node_agent.page_codec.disk.image_stream import (
    ImageBegins,
    ImageDecoder,
    ImageEncoder,
    ImageEnds,
    ImageEvent,
    ImagePiece,
    stored,
)
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from shared.logs import get_logger
from shared.messages.porting import ReservedDisk
from shared.page_stream.bodies import StreamKind

log = get_logger(__name__)

READ_ONLY: Final = "read-only"
CONTENT_WITHIN_S: Final = 360.0
"""How long a payload may wait for what another stream of the port brings, outages too."""
_CHANGED: Final = "read_only_disk"


@dataclass(frozen=True, slots=True)
class ReadOnlyImage:
    """One image at the donor. `size_bytes` is what was agreed for its file."""

    target: str
    path: str
    size_bytes: int


def of_reserved(disks: Iterable[ReservedDisk]) -> dict[str, ReservedDisk]:
    """By target, those that are sent beforehand."""
    return {disk.target: disk for disk in disks if disk.read_only}


# ---- the donor's side ----


async def send_read_only(
    lane: LaneSession, port: PortEncoder, images: Iterable[ReadOnlyImage], sent: Callable[[int], None]
) -> None:
    """Send all images; return when the recipient has them on its disk. `sent` hears of bytes of the images as they go.

    Raises DiskImageError for a file that is not as agreed or changes meanwhile, StreamError where the recipient cannot
    take it, QuestionError for an answer that is none, LaneError. Cancelled, it resets the stream.
    """
    stream = lane.open_stream(StreamKind.DISK, READ_ONLY)
    encoder = ImageEncoder(port)
    try:
        await stream.write(encoder.greet())
        for image in images:
            await _send_image(stream, encoder, image, sent)
            if (answer := await stream.read()) != stored(image.target):
                raise QuestionError(f"the recipient does not confirm disk {image.target}, but says {answer[:64]!r}")
            log.info("read-only disk sent", disk=image.target, bytes=image.size_bytes)
        stream.write_eof()
    except BaseException as error:
        stream.reset(str(error) or "the donor stopped")
        raise


async def _send_image(
    stream: LaneStream, encoder: ImageEncoder, image: ReadOnlyImage, sent: Callable[[int], None]
) -> None:
    file = await asyncio.to_thread(open_source, image.path, image.size_bytes)
    try:
        before, digest, at = stamp_of(os.fstat(file)), hashlib.sha256(), 0
        await stream.write(encoder.begin(image.target, image.size_bytes))
        while at < image.size_bytes:
            data = await asyncio.to_thread(_read, file, image, at, digest.update)
            # Encoded here and not in the thread: the port's other streams give out numbers, too.
            if payload := encoder.piece(at, data):
                await stream.write(payload, raw_bytes=len(data))
            at += len(data)
            sent(len(data))
        if stamp_of(os.fstat(file)) != before:
            raise DiskImageError(image.path, "changed while it was sent", code=_CHANGED)
        await stream.write(encoder.end(digest.digest()))
    finally:
        os.close(file)


def _read(file: int, image: ReadOnlyImage, at: int, hashed: Callable[[bytes], None]) -> bytes:
    """The next bytes, up to a chunk: whole blocks, but at the end."""
    try:
        data = os.pread(file, min(MAX_CHUNK_BYTES, image.size_bytes - at), at)
    except OSError as error:
        raise DiskImageError(image.path, error.strerror or str(error)) from error
    if not data or (len(data) % CONTENT_BYTES and at + len(data) < image.size_bytes):
        raise DiskImageError(image.path, f"ends at {at + len(data)} bytes", code=_CHANGED)
    hashed(data)
    return data


# ---- the recipient's side ----


class ReadOnlyReceiver:
    """Fills the files of one port's read-only disks, each once."""

    def __init__(self, disks: Mapping[str, ReservedDisk], port: PortDecoder, arrivals: Arrivals) -> None:
        self._disks = disks
        self._port = port
        self._arrivals = arrivals
        self._begun: set[str] = set()
        self.missing = set(disks)
        """Targets whose files are not complete."""

    async def receive(self, stream: LaneStream) -> None:
        """Take what one stream brings. Raises DiskImageError, CodecError, LaneError, StreamError, OSError."""
        decoder = ImageDecoder(self._port)
        filling: _Filling | None = None
        try:
            while payload := await stream.read_view():
                match await self._decode(decoder, payload):
                    case ImageBegins(target=target, size_bytes=size) if filling is None:
                        filling = await asyncio.to_thread(self._begin, target, size)
                    case ImagePiece(at=at, data=data) if filling is not None:
                        await filling.work(filling.write, at, data)
                    case ImageEnds(sha256=sha256) if filling is not None:
                        await filling.work(filling.check, sha256)
                        filling.close()
                        self.missing.discard(filling.disk.target)
                        log.info("read-only disk received", disk=filling.disk.target, bytes=filling.disk.file_bytes)
                        await stream.write(stored(filling.disk.target))
                        filling = None
                    case None:
                        continue
                    case _:
                        raise DiskImageError("of a read-only disk", "comes in the wrong order", code=_CHANGED)
            stream.write_eof()
        finally:
            if filling is not None:
                filling.close()

    def _begin(self, target: str, size_bytes: int) -> _Filling:
        disk = self._disks.get(target)
        if disk is None or target in self._begun or size_bytes != disk.file_bytes:
            raise DiskImageError(
                target, f"{size_bytes} bytes of it are sent, which was not agreed, or were sent already", code=_CHANGED
            )
        self._begun.add(target)
        return _Filling(disk, open_made(disk.path, size_bytes))

    async def _decode(self, decoder: ImageDecoder, payload: bytes | memoryview) -> ImageEvent | None:
        """Decode; retried while the payload refers to a content that another stream has still to bring."""
        deadline_s = time.monotonic() + CONTENT_WITHIN_S
        while True:
            try:
                return decoder.receive(payload)
            except ContentMissingError:
                if time.monotonic() > deadline_s:
                    raise
            finally:
                self._arrivals.tell()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONTENT_WITHIN_S):
                    await self._arrivals.wait()


@dataclass(slots=True)
class _Filling:
    """A file that is being filled. `write` and `check` block; `work` does them."""

    disk: ReservedDisk
    file: int
    _working: asyncio.Future[None] | None = None

    async def work(self, function: Callable[..., None], *arguments: object) -> None:
        """Do it in a thread, which goes on when this is cancelled."""
        self._working = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
        await asyncio.shield(self._working)

    def write(self, at: int, data: memoryview) -> None:
        data = data[: max(0, self.disk.file_bytes - at)]
        if not data:
            raise DiskImageError(self.disk.path, f"something is sent for byte {at}, past its end", code=_CHANGED)
        while data:
            written = os.pwrite(self.file, data, at)
            data, at = data[written:], at + written

    def check(self, sha256: bytes) -> None:
        disk = self.disk
        check_stored(self.file, disk.path, disk.format, disk.file_bytes, sha256)
        if (size := virtual_size_bytes(disk.path, disk.format)) != disk.virtual_size_bytes:
            raise DiskImageError(
                disk.path, f"is a disk of {size} bytes, agreed are {disk.virtual_size_bytes}", code=_CHANGED
            )

    def close(self) -> None:
        """When the thread is done: its next write would go to whatever file has the number by then."""
        if self._working is not None and not self._working.done():
            self._working.add_done_callback(self._close)
        else:
            self._close(None)

    def _close(self, done: asyncio.Future[None] | None) -> None:
        if done is not None and not done.cancelled() and (error := done.exception()) is not None:
            log.info("filling a read-only disk stopped", disk=self.disk.target, error=str(error))
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
