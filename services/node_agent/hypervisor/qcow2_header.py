"""What a QCOW2 image says of itself in its header: size, what it lies on, and what a copy of its contents would lose.

Read from the file itself, so a running guest's lock is no obstacle and no program is started. Changes nothing.
Source: QEMU's docs/interop/qcow2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

MAGIC: Final = b"QFI\xfb"
_FIXED_BYTES = 104
"""The shortest header of version 3."""
_SHORTEST_V2_BYTES = 72
_MOST_NAME_BYTES = 1023
"""The longest name of a backing file."""
_MOST_EXTENSION_BYTES = 64 << 10
"""All header extensions lie in the first cluster; no smaller cluster than this is worth more reading."""
_EXTERNAL_DATA = 1 << 2
"""Incompatible features: the contents lie in another file."""
_END, _BITMAPS, _DATA_FILE = 0, 0x23852875, 0x44415441


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """One image's header. `backing_file` and `data_file` are names as they stand there, None where none is."""

    virtual_size_bytes: int
    has_backing_file: bool
    backing_file: str | None
    encryption: int
    """0 for none, 1 for AES, 2 for LUKS."""
    internal_snapshots: int
    bitmaps: int
    """Bitmaps stored in the image: those that it was opened with, while a guest has it open."""
    has_data_file: bool
    data_file: str | None


def read_header(path: str) -> Qcow2Header | None:
    """Read a header; None for what is no QCOW2 image. Raises OSError."""
    with open(path, "rb") as file:
        fixed = file.read(_FIXED_BYTES)
        if fixed[:4] != MAGIC or len(fixed) < _SHORTEST_V2_BYTES:
            return None
        version = _number(fixed, 4, 4)
        features = _number(fixed, 72, 8) if version >= 3 else 0
        header_bytes = max(_number(fixed, 100, 4), _FIXED_BYTES) if version >= 3 else _SHORTEST_V2_BYTES
        backing_at, backing_bytes = _number(fixed, 8, 8), _number(fixed, 16, 4)
        extensions = dict(_extensions(_read_at(file, header_bytes, _MOST_EXTENSION_BYTES)))
        is_named = backing_at > 0 and 0 < backing_bytes <= _MOST_NAME_BYTES
        return Qcow2Header(
            virtual_size_bytes=_number(fixed, 24, 8),
            has_backing_file=backing_at > 0,
            backing_file=_text(_read_at(file, backing_at, backing_bytes)) if is_named else None,
            encryption=_number(fixed, 32, 4),
            internal_snapshots=_number(fixed, 60, 4),
            bitmaps=_number(extensions.get(_BITMAPS, b""), 0, 4),
            has_data_file=bool(features & _EXTERNAL_DATA),
            data_file=_text(extensions[_DATA_FILE]) if _DATA_FILE in extensions else None,
        )


def header_or_none(path: str) -> Qcow2Header | None:
    """As `read_header`; also None for what cannot be read."""
    try:
        return read_header(path)
    except (OSError, ValueError):  # ValueError: a path that no file can have
        return None


def _extensions(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and contents of each header extension, as far as they are whole."""
    at = 0
    while at + 8 <= len(raw):
        kind, size = _number(raw, at, 4), _number(raw, at + 4, 4)
        at += 8
        if kind == _END or at + size > len(raw):
            return
        yield kind, raw[at : at + size]
        at += -(-size // 8) * 8


def _number(raw: bytes, at: int, size: int) -> int:
    """A big-endian number; 0 where the header is too short for it."""
    return int.from_bytes(raw[at : at + size], "big")


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    """As much as is there. An offset that no file can have is no place in this one."""
    if at >= 1 << 62:
        return b""
    file.seek(at)
    return file.read(size)


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")
