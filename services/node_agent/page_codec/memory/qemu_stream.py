"""QEMU's migration stream, version 3, cut into RAM records and everything else. Pure, incremental, bounded.

Source: QEMU's docs/devel/migration and the stream of QEMU 7.2 to 10.0. What is understood: header, configuration,
commands of pre-copy, and the sections of `ram`:

    be64 address | flags        PAGE: 4096 bytes follow, ZERO: one byte 0, MEM_SIZE: the list of RAM blocks, EOS: end
    u8 length, name of block    unless the flag CONTINUE says that it is the block of the record before

Whatever else comes is not judged: from its first byte on everything passes (`passthrough` says why), because its length
is not known here. That is so for device state (the end of every pre-copy), for post-copy, and for streams of another
version or with capabilities that change the records. What is understood but contradicts itself raises
DamagedStreamError.

Nothing is held but one incomplete element, at most MAX_ELEMENT_BYTES. Runs of records are scanned by numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import numpy as np

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.memory.qemu_format import (
    FLAGS_MASK,
    MAGIC,
    PAGE_BITS,
    PAGE_BYTES,
    PRE_COPY_COMMANDS,
    RAM_SECTION,
    RAM_SECTION_VERSION,
    VERSION,
    XBZRLE_ENCODING,
    RamFlag,
    SectionType,
)
from services.node_agent.page_codec.memory.scan import Block, Kind, Mark, Scan, ScanBuilder

MAX_ELEMENT_BYTES: Final = 8 * 1024
"""Longer than any that is understood; so little that a batch with the rest of the one before still fits a payload."""
MAX_RAM_BYTES: Final = 1 << 42
"""More guest memory than this passes through unread."""

_MAX_NAME_BYTES: Final = 4096  # of a machine type
_MAX_COMMAND_BYTES: Final = 4096  # QEMU's have 16 at most
_MAX_CAPABILITIES: Final = 256  # more than any QEMU has
_MAX_CAPABILITIES_BYTES: Final = 4096  # QEMU's take about 600 if all are on
_BE64: Final = struct.Struct(">Q")
_BE32: Final = struct.Struct(">I")
_FIRST_SCAN: Final = 32
_WINDOW_GROWTH: Final = 4


class DamagedStreamError(CodecError):
    """The stream contradicts itself; the port cannot go on."""

    code = "damaged_stream"

    def __init__(self, finding: str, *, offset: int) -> None:
        self.offset = offset
        super().__init__(finding=finding)

    def __str__(self) -> str:
        return f"QEMU's migration stream is damaged at byte {self.offset}: {self.finding}"


class _Short(Exception):
    """The element is not complete yet."""


class QemuStream:
    """The parser: `feed` bytes, get scans. With `deltas` XBZRLE records are understood, too, else they pass.

    A DELTA's body begins at its XBZRLE bytes; their length, be16, stands before them.
    """

    def __init__(self, *, deltas: bool = False) -> None:
        self._deltas = deltas
        self.blocks: list[Block] = []
        self.passthrough: str | None = None
        self._by_name: dict[bytes, Block] = {}
        self._block: Block | None = None
        self._rest = b""
        self._offset = 0
        self._next: Callable[[int], int] = self._header
        self._ram_section: int | None = None
        self._has_footers = False
        self._sizes_left = 0
        self._found = ScanBuilder()
        self._buffer = b""

    @property
    def held_bytes(self) -> int:
        """Bytes of an element that is not complete yet."""
        return len(self._rest)

    @property
    def block(self) -> Block | None:
        """The block that a record without a name is of."""
        return self._block

    @property
    def in_records(self) -> bool:
        """Whether the next element, or the first one that is not understood, stands where RAM records may stand."""
        return self._next == self._record

    def section(self) -> tuple[bytes, bytes]:
        """What stands before and after the records of one more section of `ram`, which may stand between any two."""
        if self._ram_section is None:
            raise ValueError("no section of ram has begun")
        number = _BE32.pack(self._ram_section)
        footer = bytes([SectionType.FOOTER]) + number if self._has_footers else b""
        return bytes([SectionType.PART]) + number, _BE64.pack(RamFlag.EOS) + footer

    @property
    def page_count(self) -> int:
        """Pages of all blocks; 0 before the stream has told."""
        return self.blocks[-1].first_page + self.blocks[-1].pages if self.blocks else 0

    def feed(self, *parts: bytes | memoryview) -> Scan:
        """All elements that `parts` complete. Once `passthrough` is set, every byte is OPAQUE at once."""
        self._buffer = buffer = b"".join((self._rest, *parts))
        self._found = found = ScanBuilder()
        at, passed = 0, self.passthrough is not None
        try:
            while self.passthrough is None and at < len(buffer):
                begin = at
                at = self._next(at)
                if self.passthrough is not None:
                    at = begin
        except (_Short, struct.error):
            if len(buffer) - at > MAX_ELEMENT_BYTES:
                raise DamagedStreamError("an element has no end", offset=self._offset + at) from None
        if self.passthrough is not None and at < len(buffer):
            if not passed:
                found.mark(Mark.PASSTHROUGH)
            found.opaque(at)
            at = len(buffer)
        self._rest = buffer[at:]
        self._offset += at
        return found.scan(buffer, at)

    # ---- elements that pass; each returns where the next one begins ----

    def _header(self, at: int) -> int:
        head = self._bytes(at, 8)
        if head != MAGIC + _BE32.pack(VERSION):
            return self._pass_through("another stream version", at)
        return self._opaque(at, at + 8, self._section)

    def _section(self, at: int) -> int:
        match self._buffer[at]:
            case SectionType.CONFIGURATION:
                size = self._be32(at + 1)
                if size > _MAX_NAME_BYTES:
                    raise self._damaged("the machine type's name is too long", at)
                return self._opaque(at, self._whole(at + 5 + size), self._section)
            case SectionType.SUBSECTION:  # of the configuration
                return self._configuration(at)
            case SectionType.COMMAND:
                command, size = struct.unpack_from(">HH", self._buffer, at + 1)
                if command not in PRE_COPY_COMMANDS:
                    return self._pass_through(f"post-copy or another mode (command {command})", at)
                if size > _MAX_COMMAND_BYTES:
                    return self._pass_through(f"command {command} of {size} bytes", at)
                return self._opaque(at, self._whole(at + 5 + size), self._section)
            case SectionType.START:
                return self._start(at)
            case SectionType.PART | SectionType.END as kind:
                section = self._be32(at + 1)
                if section != self._ram_section:
                    return self._pass_through(f"section {section} is not of memory", at)
                self._whole(at + 5)
                if kind == SectionType.END:
                    self._found.mark(Mark.LAST_SECTION)
                return self._opaque(at, at + 5, self._record)
            case kind:
                return self._pass_through(f"section type {kind}", at)

    def _configuration(self, at: int) -> int:
        name, version_at = self._text(at + 1)
        body = version_at + 4
        match name:
            case b"configuration/target-page-bits":
                if self._be32(body) != PAGE_BITS:
                    return self._pass_through("the guest's pages are not of 4 KiB", at)
                end = body + 4
            case b"configuration/uuid":
                end = body + 16
            case b"configuration/capabilities":
                end = body + 4
                for _ in range(min(self._be32(body), _MAX_CAPABILITIES)):
                    _, end = self._text(end)
                    if end - body > _MAX_CAPABILITIES_BYTES:
                        return self._pass_through("a list of capabilities that is too long", at)
            case _:
                return self._pass_through(f"subsection {name!r}", at)
        return self._opaque(at, self._whole(end), self._section)

    def _start(self, at: int) -> int:
        name, end = self._text(at + 5)
        section, version = self._be32(at + 1), self._be32(end + 4)
        if name != RAM_SECTION or version != RAM_SECTION_VERSION:
            return self._pass_through(f"section {name!r} of version {version}", at)
        self._ram_section = section
        return self._opaque(at, end + 8, self._record)

    def _footer(self, at: int) -> int:
        if self._buffer[at] != SectionType.FOOTER:
            return self._section(at)
        if self._be32(at + 1) != self._ram_section:
            raise self._damaged("the footer is of another section", at)
        self._has_footers = True
        return self._opaque(at, at + 5, self._section)

    def _block_size(self, at: int) -> int:
        name, end = self._text(at)
        size = self._be64(end)
        if not name or name in self._by_name or size > self._sizes_left or size == 0 or size & FLAGS_MASK:
            # Blocks of huge pages have one more field where post-copy is possible; then the list cannot be read on.
            return self._pass_through(f"a list of RAM blocks with {name!r} of {size} bytes", at)
        block = Block(name, self.page_count, size >> PAGE_BITS)
        self.blocks.append(block)
        self._by_name[name] = block
        self._sizes_left -= size
        return self._opaque(at, end + 8, self._block_size if self._sizes_left else self._record)

    # ---- RAM records ----

    def _record(self, at: int) -> int:
        head = self._be64(at)
        flags = head & FLAGS_MASK
        match flags:
            case RamFlag.PAGE_CONTINUED:
                return self._run(at, flags, Kind.PAGE, PAGE_BYTES)
            case RamFlag.ZERO_CONTINUED:
                return self._run(at, flags, Kind.ZERO, 1)
            case RamFlag.XBZRLE | RamFlag.XBZRLE_CONTINUED if self._deltas:
                return self._delta(at, head)
            case RamFlag.PAGE | RamFlag.ZERO:
                name, body = self._text(at + 8)
                self._whole(body + (PAGE_BYTES if flags == RamFlag.PAGE else 1))
                self._enter(name, at)
                if flags == RamFlag.PAGE:
                    return self._page(at, head, body)
                return self._zero(at, head, body)
            case RamFlag.EOS:
                if head != RamFlag.EOS:
                    raise self._damaged(f"an end of records with address {head:#x}", at)
                self._found.mark(Mark.RECORDS_END)
                return self._opaque(at, at + 8, self._footer)
            case RamFlag.MEM_SIZE:
                self._sizes_left = head & ~FLAGS_MASK
                if self.blocks or not 0 < self._sizes_left <= MAX_RAM_BYTES:
                    return self._pass_through(f"a list of RAM blocks of {self._sizes_left} bytes in all", at)
                return self._opaque(at, at + 8, self._block_size)
            case _:
                return self._pass_through(f"RAM records with flags {flags:#x}", at)

    def _page(self, at: int, head: int, body: int) -> int:
        """A PAGE record that names its block."""
        self._found.record(Kind.PAGE, at, body, self._page_number(head, at), named=True)
        return self._whole(body + PAGE_BYTES)

    def _zero(self, at: int, head: int, body: int) -> int:
        if self._buffer[body] != 0:
            raise self._damaged(f"a zero page filled with {self._buffer[body]}", at)
        self._found.record(Kind.ZERO, at, body, self._page_number(head, at), named=True)
        return body + 1

    def _run(self, at: int, flags: int, kind: Kind, body_bytes: int) -> int:
        """A run of such records: looked for in windows that grow, so that short runs stay cheap."""
        block = self._block
        if block is None:
            raise self._damaged("the first record has no block", at)
        stride = 8 + body_bytes
        end, window = at, _FIRST_SCAN
        while count := min(window, (len(self._buffer) - end) // stride):
            heads = np.ndarray((count,), ">u8", self._buffer, end, (stride,)).astype(np.uint64)
            good = (heads & FLAGS_MASK) == flags
            run = count if good.all() else int(good.argmin())
            pages = (heads[:run] >> PAGE_BITS).view(np.int64)
            if (beyond := pages >= block.pages).any():
                page = pages[beyond][0]
                raise self._damaged(f"page {page} of {block.name!r}, which has {block.pages}", end)
            if kind == Kind.ZERO and np.ndarray((run,), np.uint8, self._buffer, end + 8, (stride,)).any():
                raise self._damaged("a zero page with another filling", end)
            self._found.run(kind, end, stride, pages + block.first_page)
            end += run * stride
            if run < count:
                break
            window *= _WINDOW_GROWTH
        if end == at:
            raise _Short
        return end

    def _delta(self, at: int, head: int) -> int:
        body, name = at + 8, None
        if not head & RamFlag.CONTINUE:
            name, body = self._text(body)
        encoding, size = struct.unpack_from(">BH", self._buffer, body)
        end = self._whole(body + 3 + size)
        if encoding != XBZRLE_ENCODING or size > PAGE_BYTES:
            raise self._damaged(f"a delta of {size} bytes in encoding {encoding}", at)
        if name is not None:
            self._enter(name, at)
        self._found.record(Kind.DELTA, at, body + 3, self._page_number(head, at), named=name is not None)
        return end

    def _enter(self, name: bytes, at: int) -> None:
        self._block = self._by_name.get(name)
        if self._block is None:
            raise self._damaged(f"RAM block {name!r} was not listed", at)

    def _page_number(self, head: int, at: int) -> int:
        block = self._block
        if block is None:
            raise self._damaged("the first record has no block", at)
        page = head >> PAGE_BITS
        if page >= block.pages:
            raise self._damaged(f"page {page} of {block.name!r}, which has {block.pages}", at)
        return block.first_page + page

    # ---- reading ----

    def _opaque(self, at: int, end: int, following: Callable[[int], int]) -> int:
        self._whole(end)
        self._found.opaque(at)
        self._next = following
        return end

    def _pass_through(self, reason: str, at: int) -> int:
        self.passthrough = reason
        return at

    def _damaged(self, finding: str, at: int) -> DamagedStreamError:
        return DamagedStreamError(finding, offset=self._offset + at)

    def _whole(self, end: int) -> int:
        if end > len(self._buffer):
            raise _Short
        return end

    def _bytes(self, at: int, size: int) -> bytes:
        return self._buffer[at : self._whole(at + size)]

    def _text(self, at: int) -> tuple[bytes, int]:
        """A text with one byte of length, and where it ends."""
        self._whole(at + 1)
        end = at + 1 + self._buffer[at]
        return self._bytes(at + 1, self._buffer[at]), end

    def _be32(self, at: int) -> int:
        return int(_BE32.unpack_from(self._buffer, at)[0])

    def _be64(self, at: int) -> int:
        return int(_BE64.unpack_from(self._buffer, at)[0])
