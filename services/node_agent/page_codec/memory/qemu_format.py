"""QEMU's migration stream, version 3: its numbers, under QEMU's own names. Constants only.

Source: QEMU 10.0, migration/savevm.h (sections), migration/savevm.c (enum qemu_vm_cmd) and migration/ram.c
(RAM_SAVE_FLAG_*). QEMU 7.2 has the same but SWITCHOVER_START.

The classes are plain, not enums: `match` compares with them once per record, and an enum's member costs more there than
all the rest of the comparison.
"""

from __future__ import annotations

from typing import Final

PAGE_BYTES: Final = 4096
PAGE_BITS: Final = 12
FLAGS_MASK: Final = PAGE_BYTES - 1
"""A record begins with be64 address | flags: addresses are those of whole pages, so these bits are free."""

MAGIC: Final = b"QEVM"
VERSION: Final = 3
RAM_SECTION: Final = b"ram"
RAM_SECTION_VERSION: Final = 4


class SectionType:
    """QEMU_VM_*: the byte that a section begins with."""

    START: Final = 0x01
    PART: Final = 0x02
    END: Final = 0x03
    SUBSECTION: Final = 0x05
    CONFIGURATION: Final = 0x07
    COMMAND: Final = 0x08
    FOOTER: Final = 0x7E


class VmCommand:
    """MIG_CMD_*: those that pre-copy has. What follows any of them is a section again."""

    OPEN_RETURN_PATH: Final = 1
    PING: Final = 2
    POSTCOPY_ADVISE: Final = 3
    SWITCHOVER_START: Final = 11


PRE_COPY_COMMANDS: Final = frozenset(
    {VmCommand.OPEN_RETURN_PATH, VmCommand.PING, VmCommand.POSTCOPY_ADVISE, VmCommand.SWITCHOVER_START}
)


class RamFlag:
    """RAM_SAVE_FLAG_*, and the combinations that stand for a record of the block before."""

    ZERO: Final = 0x02
    MEM_SIZE: Final = 0x04
    PAGE: Final = 0x08
    EOS: Final = 0x10
    CONTINUE: Final = 0x20
    XBZRLE: Final = 0x40

    ZERO_CONTINUED: Final = ZERO | CONTINUE
    PAGE_CONTINUED: Final = PAGE | CONTINUE
    XBZRLE_CONTINUED: Final = XBZRLE | CONTINUE


XBZRLE_ENCODING: Final = 1
"""ENCODING_FLAG_XBZRLE: the byte before the length of a delta."""
