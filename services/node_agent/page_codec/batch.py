"""A batch: columns of bytes in one payload, packed together so that like compresses with like. Pure.

Wire format (column contents are little-endian, as numpy reads them; each stream defines which columns it has):

    u8  method, METHOD_BATCH
    u8  packing: 0 the packed columns are there as they are, 1 they are the next flush of the stream's zstd stream
    u8  number of columns n
    n times u32 little-endian: bits 0..30 the column's raw length, bit 31 set: it is *stored*, outside zstd
    the packed columns, one after the other, as one flush of zstd or as they are
    the stored columns, one after the other

One zstd stream spans all batches of a stream in one direction: its window of WINDOW_LOG bits reaches back over earlier
batches, which is worth more than a high level within one batch. A change of level ends the frame and begins the next
one in the same payload; the reader reads across frames and need not know. Payloads come in order, each exactly once
(the seam's promise), so both ends' windows agree. Raw lengths bound what is decompressed before it is.

A payload exceeds its raw columns by its header and by zstd's few bytes per flush at most.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final, cast

import zstandard

from services.node_agent.page_codec.codec import CodecError

METHOD_HELLO: Final = 2
METHOD_BATCH: Final = 3

MAX_BATCH_BYTES: Final = 320 * 1024
"""Most raw bytes of all columns of a batch together."""
MAX_COLUMNS: Final = 32
WINDOW_LOG: Final = 22
"""4 MiB, at either end and per stream."""
STORED_LEVEL: Final = 0
"""In place of a zstd level: do not compress."""

_PACKING_NONE: Final = 0
_PACKING_ZSTD: Final = 1
_STORED_BIT: Final = 1 << 31
_SMALL_BYTES: Final = 16 * 1024
_BLOCK: Final = zstandard.COMPRESSOBJ_FLUSH_BLOCK
_FINISH: Final = zstandard.COMPRESSOBJ_FLUSH_FINISH

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Column:
    """One column's bytes; `stored` keeps what does not compress away from zstd."""

    data: Bytes
    stored: bool = False


class BatchPacker:
    """Columns to payloads, in one direction of one stream. `level` may be set between batches."""

    def __init__(self, *, level: int = 1) -> None:
        self.level = level
        self._stream: zstandard.ZstdCompressionObj | None = None
        self._stream_level = level

    def pack(self, columns: Sequence[Column]) -> bytes:
        """One payload. Raises ValueError for more than the format carries."""
        packed = [column.data for column in columns if not column.stored]
        stored = [column.data for column in columns if column.stored]
        lengths = [len(column.data) | (_STORED_BIT if column.stored else 0) for column in columns]
        packed_bytes = sum(map(len, packed))
        if len(columns) > MAX_COLUMNS or packed_bytes + sum(map(len, stored)) > MAX_BATCH_BYTES:
            raise ValueError(f"{len(columns)} columns with {packed_bytes} packed bytes are more than a batch carries")
        if self.level == STORED_LEVEL or packed_bytes == 0:
            return b"".join((_head(_PACKING_NONE, lengths), *packed, *stored))
        body = self._compress(packed)
        return b"".join((_head(_PACKING_ZSTD, lengths), *body, *stored))

    def _compress(self, columns: Sequence[Bytes]) -> list[bytes]:
        ended = b""
        if self._stream is None or self._stream_level != self.level:
            ended = self._stream.flush(_FINISH) if self._stream is not None else b""
            self._stream, self._stream_level = _new_stream(self.level), self.level
        # Large columns are not copied; a zstd call for each small one would cost more than joining them.
        small: list[Bytes] = []
        packed = [ended]
        for column in columns:
            small.append(column)
            if len(column) > _SMALL_BYTES:
                packed.append(self._stream.compress(b"".join(small[:-1])))
                packed.append(self._stream.compress(column))
                small = []
        packed.append(self._stream.compress(b"".join(small)))
        packed.append(self._stream.flush(_BLOCK))
        return packed


class BatchUnpacker:
    """Payloads to columns; the other end of a `BatchPacker`."""

    def __init__(self) -> None:
        self._source = _Source()
        # One over the window, because a frame that began with the level's own parameters may declare that.
        zstd = zstandard.ZstdDecompressor(max_window_size=1 << (WINDOW_LOG + 1))
        self._reader = zstd.stream_reader(
            cast("IO[bytes]", self._source), read_across_frames=True, read_size=MAX_BATCH_BYTES
        )

    def unpack(self, payload: Bytes) -> list[memoryview]:
        """All columns in order. Raises CodecError for anything but what `BatchPacker` makes."""
        view = memoryview(payload)
        if len(view) < 3 or view[0] != METHOD_BATCH:
            raise CodecError(finding="no batch where one is expected")
        packing, count = view[1], view[2]
        start = 3 + 4 * count
        if packing > _PACKING_ZSTD or count > MAX_COLUMNS or len(view) < start:
            raise CodecError(finding=f"a batch of packing {packing} with {count} columns in {len(view)} bytes")
        lengths = struct.unpack_from(f"<{count}I", view, 3)
        packed_bytes = sum(length for length in lengths if not length & _STORED_BIT)
        stored_bytes = sum(length & ~_STORED_BIT for length in lengths if length & _STORED_BIT)
        if packed_bytes + stored_bytes > MAX_BATCH_BYTES or stored_bytes > len(view) - start:
            raise CodecError(finding=f"a batch declares {packed_bytes} and {stored_bytes} bytes")
        end = len(view) - stored_bytes
        packed = view[start:end] if packing == _PACKING_NONE else self._read(view[start:end], packed_bytes)
        if len(packed) != packed_bytes:
            raise CodecError(finding=f"a batch declares {packed_bytes} packed bytes and has {len(packed)}")
        return _cut(lengths, packed, view[end:])

    def _read(self, body: memoryview, size: int) -> memoryview:
        self._source.feed(body)
        try:
            data = self._reader.read(size) if size else b""
        except zstandard.ZstdError as error:
            raise CodecError(finding=f"zstd: {error}") from error
        # A rest would be taken for the beginning of the next batch.
        if self._source.waiting:
            raise CodecError(finding="a batch has more packed bytes than it declares")
        return memoryview(data)


class _Source:
    """What the zstd reader reads from: bodies that were put and not read yet. Only whole bodies."""

    def __init__(self) -> None:
        self._bodies: deque[bytes] = deque()

    @property
    def waiting(self) -> bool:
        return bool(self._bodies)

    def feed(self, body: memoryview) -> None:
        if len(body):
            self._bodies.append(bytes(body))

    def read(self, _size: int = -1) -> bytes:
        return self._bodies.popleft() if self._bodies else b""


def _new_stream(level: int) -> zstandard.ZstdCompressionObj:
    # No checksum: a lane's TLS already detects a damaged payload.
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=WINDOW_LOG, write_checksum=False)
    return zstandard.ZstdCompressor(compression_params=parameters).compressobj()


def _head(packing: int, lengths: Sequence[int]) -> bytes:
    return struct.pack(f"<BBB{len(lengths)}I", METHOD_BATCH, packing, len(lengths), *lengths)


def _cut(lengths: Sequence[int], packed: memoryview, stored: memoryview) -> list[memoryview]:
    columns = []
    at = {False: 0, True: 0}
    for length in lengths:
        is_stored = bool(length & _STORED_BIT)
        begin = at[is_stored]
        at[is_stored] = end = begin + (length & ~_STORED_BIT)
        columns.append((stored if is_stored else packed)[begin:end])
    return columns
