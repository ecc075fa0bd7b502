"""Several frames as one payload of a lane's stream. Pure.

    payload   one or more records
    record    u32 length of what follows · 10 bytes of `offload` · the Ethernet frame

Integers are big-endian but for the offload header, which is the kernel's. A frame has 14 to 65549 bytes. The reader
copies nothing and raises BatchError and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from services.node_agent.network.extension.offload import OFFLOAD_BYTES
from services.node_agent.network.frames import ETHERNET_BYTES
from shared.errors import VmportError

VERSION: Final = 1
"""Part of a stream's label: ends that mean different bytes never speak."""
MAX_FRAME_BYTES: Final = ETHERNET_BYTES + 65_535
MIN_RECORD_BYTES: Final = OFFLOAD_BYTES + ETHERNET_BYTES
MAX_RECORD_BYTES: Final = OFFLOAD_BYTES + MAX_FRAME_BYTES
_LENGTH: Final = struct.Struct(">I")
MAX_PAYLOAD_BYTES: Final = 2 * (_LENGTH.size + MAX_RECORD_BYTES)
"""10 ms at 100 Mbit/s."""


class BatchError(VmportError):
    """A payload is not made of whole records."""

    code = "bad_batch"


def encode(records: Iterable[bytes | memoryview]) -> bytes:
    """Records, each an offload header and its frame, as a payload. Raises BatchError for a size that none has."""
    parts: list[bytes | memoryview] = []
    for record in records:
        _check_size(len(record))
        parts += (_LENGTH.pack(len(record)), record)
    return b"".join(parts)


def decode(payload: bytes | memoryview) -> list[memoryview]:
    """The records of a payload, as views into it. Raises BatchError."""
    view = memoryview(payload)
    records = []
    at, end = 0, len(view)
    while at < end:
        if end - at < _LENGTH.size:
            raise BatchError("a record's length is cut off")
        (size,) = _LENGTH.unpack_from(view, at)
        _check_size(size)
        at += _LENGTH.size
        if size > end - at:
            raise BatchError(f"a record of {size} bytes has only {end - at}")
        records.append(view[at : at + size])
        at += size
    return records


class BatchWriter:
    """Makes payload bytes of records that are read in place: ask for `room`, read into it, then `keep` or do not."""

    def __init__(self, limit_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        """Holds one record of any size at least. Raises ValueError for less."""
        if limit_bytes < _LENGTH.size + MAX_RECORD_BYTES:
            raise ValueError(f"{limit_bytes} bytes hold no record of {MAX_RECORD_BYTES}")
        self._view = memoryview(bytearray(limit_bytes))
        self._used = 0
        self.records = 0

    @property
    def is_full(self) -> bool:
        """Whether a record of the largest size finds no room."""
        return len(self._view) - self._used < _LENGTH.size + MAX_RECORD_BYTES

    def room(self) -> memoryview:
        """Where the next record goes; only unless it `is_full`."""
        start = self._used + _LENGTH.size
        return self._view[start : start + MAX_RECORD_BYTES]

    def keep(self, size: int) -> None:
        """The room's first `size` bytes are a record."""
        _LENGTH.pack_into(self._view, self._used, size)
        self._used += _LENGTH.size + size
        self.records += 1

    def take(self) -> bytes:
        """All records so far, encoded; it is empty then."""
        taken = bytes(self._view[: self._used])
        self._used = self.records = 0
        return taken


def _check_size(size: int) -> None:
    if not MIN_RECORD_BYTES <= size <= MAX_RECORD_BYTES:
        raise BatchError(f"a record of {size} bytes is impossible")
