"""Where a guest's RAM is among its physical addresses, from its domain XML. Pure; it reads no memory.

To read beside RAM is not harmless: reading a device's register may change it. So only machine types whose layout is
known have ranges here, and of those only what is certainly RAM; the rest counts as absent.

On a PC, RAM ends at a border below 4 GiB, and what exceeds it continues at 4 GiB. The border is QEMU's own arithmetic
(pc_init1 and pc_q35_init, the same since machine type 2.0); libvirt has no option that moves it, and a VM with raw QEMU
options is not ported. Below 1 MiB the VGA window and the ROMs are left out. Where memory was or may be plugged in, the
size of the base RAM is not certain, so there are no ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from shared.domain import DomainSource, describe, parse

MIB: Final = 1 << 20
GIB: Final = 1 << 30

VGA_WINDOW: Final = 0xA_0000
HIGH_START: Final = 4 * GIB
HIGH_END: Final = 0xF8_0000_0000
"""Guests of AMD models that come near 1 TiB have a hole there, and their high RAM elsewhere."""
ARCHITECTURES: Final = frozenset({"x86_64", "i686"})


class RamRange(NamedTuple):
    """Guest-physical addresses, the end not included."""

    start: int
    end: int


def ram_ranges(domain_xml: DomainSource) -> tuple[RamRange, ...]:
    """The guest's RAM, as far as it is known. Raises DomainXmlError."""
    domain = parse(domain_xml)
    facts, root = describe(domain), domain.root
    if facts.arch not in ARCHITECTURES or root.find("maxMemory") is not None or root.find("devices/memory") is not None:
        return ()
    size = facts.memory_bytes
    border = _border(facts.machine, size)
    if border is None:
        return ()
    low = min(size, border)
    ranges = [RamRange(0, min(low, VGA_WINDOW)), RamRange(MIB, low), RamRange(HIGH_START, HIGH_START + size - low)]
    return tuple(each for each in ranges if each.start < each.end <= HIGH_END)


def pieces_of(ranges: Sequence[RamRange], piece_bytes: int) -> Iterator[RamRange]:
    """The same addresses in pieces of at most so many bytes, in order."""
    for start, end in ranges:
        for at in range(start, end, piece_bytes):
            yield RamRange(at, min(at + piece_bytes, end))


def _border(machine: str, size: int) -> int | None:
    """Where low RAM ends if it is that long; None for a machine type of another kind."""
    if machine == "q35" or machine.startswith("pc-q35-"):
        return 0x8000_0000 if size >= 0xB000_0000 else 0xB000_0000
    if machine == "pc" or machine.startswith("pc-i440fx-"):
        return 0xC000_0000 if size >= 0xE000_0000 else 0xE000_0000
    return None
