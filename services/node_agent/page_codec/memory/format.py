"""The columns of a memory batch: what travels for a piece of QEMU's migration stream. Pure; see `batch` for the frame.

A batch stands for consecutive elements of the stream, one entry of KINDS each, and says how the other columns continue:

    KINDS    u8 per element: one of MemoryKind, plus NAMED where the record carries its block's name
    PAGES    i32 per record: its page within its block, as the difference to the record before
    NAMES    per NAMED record: u8 length, name
    OPAQUE   u32 per OPAQUE element: its length; OPAQUE_BYTES: their bytes
    CODES    u32 per REFERENCE: its code, as the difference (mod 2^32) to the code before
    SIZES    u16 per DELTA: its length; DELTAS: their XBZRLE bytes
    LITERALS 4096 bytes per LITERAL
    INCOMPRESSIBLE  4096 bytes per INCOMPRESSIBLE record, outside zstd

LITERAL and INCOMPRESSIBLE records, in their common order, get the next numbers of origin MEMORY if their batch says so
in NUMBERED (u8 0 or 1); references may point to contents of the same batch, before or after them.

Differences begin at 0 in every stream and run on over batches. The recipient writes records as QEMU does: without a
name the flag CONTINUE. Elements that change nothing at the recipient are not there at all. A record of a page that
waited (`held_pages`) is one like the others; it stands later in the stream than QEMU wrote it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

NAMED: Final = 0x80


class MemoryKind(IntEnum):
    """What stands for an element."""

    OPAQUE = 0
    ZERO = 1
    LITERAL = 2
    INCOMPRESSIBLE = 3
    REFERENCE = 4
    DELTA = 5


class MemoryColumn(IntEnum):
    """Columns in their order in the batch."""

    KINDS = 0
    PAGES = 1
    NAMES = 2
    OPAQUE = 3
    CODES = 4
    SIZES = 5
    OPAQUE_BYTES = 6
    DELTAS = 7
    LITERALS = 8
    NUMBERED = 9
    INCOMPRESSIBLE = 10
