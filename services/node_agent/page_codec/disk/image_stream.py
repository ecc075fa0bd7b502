"""The wire format of images that are sent as files before the migration: read-only disks and inserted media. Pure.

The first payload is a hello. Then, for one image after the other; integers little-endian:

    BEGIN   u8 4 · u64 size of the file in bytes · the disk's target, ASCII            donor
    batches (`batch`), each of up to a chunk of blocks that follow each other          donor
    END     u8 5 · 32 bytes, SHA-256 of the file                                       donor
    STORED  u8 6 · the disk's target                                                   recipient: it is on its disk

The columns of a batch:

    at       u64: where in the file the first block belongs, a multiple of 4 KiB
    kinds    u8 per block (`format.Run`): ZERO, FULL or REFERENCE
    codes    u32 per REFERENCE: its code (`contents`) less the last one's, less one, mod 2^32
    first    u32, if there are FULL blocks: the number of the first one in origin DISK
    full     the FULL blocks; their numbers follow each other

What no batch brings is zero. The last block of a file is filled up with zeros, and cut when it is written. What was
sent so has numbers like what the early transfer sent: disk streams refer to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.node_agent.page_codec.batch import METHOD_BATCH, STORED_LEVEL, BatchPacker, BatchUnpacker, Column
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    MAX_NUMBER,
    NUMBER_BITS,
    Codes,
    ContentStore,
    Origin,
    Pages,
)
from services.node_agent.page_codec.disk.format import Run
from services.node_agent.page_codec.hello import Technique
from services.node_agent.page_codec.pace import DEFAULT_LEVEL
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder

METHOD_BEGIN: Final = 4
METHOD_END: Final = 5
METHOD_STORED: Final = 6
SHA256_BYTES: Final = 32

_COLUMNS: Final = 5
_MOST_BLOCKS: Final = MAX_CHUNK_BYTES // CONTENT_BYTES
_MOST_BYTES: Final = 1 << 62
_TARGET: Final = re.compile(rb"[a-z]{1,16}")
_ORIGINS: Final = frozenset(Origin)


@dataclass(frozen=True, slots=True)
class ImageBegins:
    """An image of so many bytes follows, for this disk."""

    target: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImagePiece:
    """Bytes of the image; whole blocks, which may reach past its end."""

    at: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class ImageEnds:
    """All of it has come; `sha256` is of the whole file."""

    sha256: bytes


ImageEvent = ImageBegins | ImagePiece | ImageEnds


def stored(target: str) -> bytes:
    """The recipient's answer."""
    return bytes([METHOD_STORED]) + target.encode("ascii")


class ImageEncoder:
    """The donor's side. What `piece` returns must be sent: its contents have their numbers, and are referred to."""

    def __init__(self, port: PortEncoder) -> None:
        self._port = port
        self._packer = BatchPacker(level=DEFAULT_LEVEL if Technique.COMPRESS in port.techniques else STORED_LEVEL)

    def greet(self) -> bytes:
        """The first payload."""
        return self._port.hello.encode()

    def begin(self, target: str, size_bytes: int) -> bytes:
        """An image follows."""
        return bytes([METHOD_BEGIN]) + size_bytes.to_bytes(8, "little") + target.encode("ascii")

    def end(self, sha256: bytes) -> bytes:
        """All of it was sent."""
        return bytes([METHOD_END]) + sha256

    def piece(self, at: int, data: bytes) -> bytes:
        """A payload of at most a chunk that begins on a block's border; empty where all of it is zero."""
        if len(data) > MAX_CHUNK_BYTES or at % CONTENT_BYTES:
            raise ValueError(f"{len(data)} bytes at {at} are more than a chunk, or begin within a block")
        data += bytes(-len(data) % CONTENT_BYTES)
        pages = np.frombuffer(data, dtype=np.uint8).reshape(-1, CONTENT_BYTES)
        written = pages.any(axis=1)
        if not written.any():
            return b""
        kinds = np.where(written, np.uint8(Run.FULL), np.uint8(Run.ZERO))
        contents, first = self._port.contents, self._port.contents.next_number(Origin.DISK)
        codes: Codes = np.empty(0, dtype=np.uint32)
        if Technique.DEDUP in self._port.techniques:
            places, fresh = contents.place(Origin.DISK, contents.ids(pages[written].tobytes()))
            kinds[written] = np.where(fresh, np.uint8(Run.FULL), np.uint8(Run.REFERENCE))
            codes = places[~fresh]
        else:
            contents.skip(Origin.DISK, int(written.sum()))
        full = pages[kinds == Run.FULL].tobytes()
        return self._packer.pack(
            [
                Column(at.to_bytes(8, "little")),
                Column(kinds.tobytes()),
                Column(_differences(codes).tobytes()),
                Column(first.to_bytes(4, "little") if full else b""),
                Column(full),
            ]
        )


class ImageDecoder:
    """The recipient's side.

    `receive` raises ContentMissingError while a content that it refers to has still to come from elsewhere: call it
    again with the same payload when more has arrived.
    """

    def __init__(self, port: PortDecoder) -> None:
        self._port = port
        self._unpacker = BatchUnpacker()
        self._store: ContentStore | None = None
        self._waiting: _Columns | None = None

    def receive(self, payload: bytes | memoryview) -> ImageEvent | None:
        """What a payload says; None for the hello. Raises CodecError, and ContentMissingError as said above."""
        if self._store is None:
            self._store = self._port.greet(payload)
            return None
        match payload[0] if len(payload) else None:
            case method if method == METHOD_BATCH:
                return self._piece(self._store, payload)
            case method if method == METHOD_BEGIN:
                return _begins(bytes(payload))
            case method if method == METHOD_END and len(payload) == 1 + SHA256_BYTES:
                return ImageEnds(bytes(payload[1:]))
            case method:
                raise CodecError(finding=f"message {method} of {len(payload)} bytes is not one of an image's")

    def _piece(self, store: ContentStore, payload: bytes | memoryview) -> ImagePiece:
        columns = self._waiting
        if columns is None:
            columns = _Columns.read(self._unpacker.unpack(payload))
            # New contents first: references in the same batch may point to them.
            store.insert(Origin.DISK, columns.first, columns.full)
            self._waiting = columns
        pages = columns.pages(store)
        self._waiting = None
        return ImagePiece(columns.at, pages.reshape(-1).data)


def _begins(payload: bytes) -> ImageBegins:
    size, target = int.from_bytes(payload[1:9], "little"), payload[9:]
    if len(payload) < 10 or size > _MOST_BYTES or _TARGET.fullmatch(target) is None:
        raise CodecError(finding="an image begins with no target, or no size that a file may have")
    return ImageBegins(target.decode("ascii"), size)


def _differences(codes: Codes) -> Codes:
    # The code before the first one counts as -1, so that the first is sent as it is.
    before = np.concatenate((np.full(1, 0xFFFFFFFF, dtype=np.uint32), codes[:-1])) if len(codes) else codes
    return (codes - before - np.uint32(1)).astype("<u4")


@dataclass(frozen=True, slots=True)
class _Columns:
    """A batch as it came, checked: the kinds use up the other columns exactly."""

    at: int
    kinds: np.ndarray[tuple[int], np.dtype[np.uint8]]
    codes: Codes
    first: int
    full: Pages

    @classmethod
    def read(cls, columns: list[memoryview]) -> _Columns:
        if len(columns) != _COLUMNS:
            raise CodecError(finding=f"a batch of {len(columns)} columns in an image")
        at, kinds, codes, first, full = columns
        if len(at) != 8 or not 0 < len(kinds) <= _MOST_BLOCKS or len(codes) % 4 or len(full) % CONTENT_BYTES:
            raise CodecError(finding="the columns of an image's batch do not fit each other")
        of_each = np.frombuffer(kinds, dtype=np.uint8)
        counts = {run: int((of_each == run).sum()) for run in (Run.ZERO, Run.FULL, Run.REFERENCE)}
        sizes = (counts[Run.FULL] * CONTENT_BYTES, counts[Run.REFERENCE] * 4, 4 if counts[Run.FULL] else 0)
        if sum(counts.values()) != len(of_each) or sizes != (len(full), len(codes), len(first)):
            raise CodecError(finding="the kinds of an image's batch do not fit its columns")
        begin = int.from_bytes(at, "little")
        if begin % CONTENT_BYTES or begin > _MOST_BYTES:
            raise CodecError(finding=f"a batch of an image belongs at {begin}")
        steps = np.frombuffer(codes, dtype="<u4").astype(np.uint32) + np.uint32(1)
        return cls(
            at=begin,
            kinds=of_each,
            codes=np.cumsum(steps, dtype=np.uint32) - np.uint32(1),
            first=int.from_bytes(first, "little"),
            full=np.frombuffer(full, dtype=np.uint8).reshape(-1, CONTENT_BYTES),
        )

    def pages(self, store: ContentStore) -> Pages:
        pages = np.zeros((len(self.kinds), CONTENT_BYTES), dtype=np.uint8)
        pages[self.kinds == Run.FULL] = self.full
        where, origins = np.flatnonzero(self.kinds == Run.REFERENCE), self.codes >> NUMBER_BITS
        for origin in np.unique(origins).tolist():
            if origin not in _ORIGINS:
                raise CodecError(finding=f"origin {origin} is unknown")
            these = origins == origin
            pages[where[these]] = store.fetch(Origin(origin), self.codes[these] & np.uint32(MAX_NUMBER))
        return pages
