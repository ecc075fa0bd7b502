"""Migration streams of QEMU: writing small ones for tests, and what a guest's memory is after reading one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from services.node_agent.page_codec.memory.qemu_format import PAGE_BYTES
from services.node_agent.page_codec.memory.qemu_stream import QemuStream
from services.node_agent.page_codec.memory.scan import Kind
from tests.support.xbzrle_reference import apply_delta

RAM_SECTION = 2
BLOCKS: Mapping[bytes, int] = {b"pc.ram": 64, b"0000:00:02.0/vga.vram": 8, b"/rom@etc/acpi/tables": 2}
"""Names and pages."""


class StreamWriter:
    """Writes a stream as QEMU's pre-copy does."""

    def __init__(self, blocks: Mapping[bytes, int] = BLOCKS) -> None:
        self.data = bytearray()
        self._blocks = blocks
        self._block: bytes | None = None

    def header(self) -> StreamWriter:
        """All that comes before the first page, with the commands of a migration that may become post-copy."""
        machine = b"pc-q35-10.0"
        self.data += b"QEVM\0\0\0\3\7" + len(machine).to_bytes(4) + machine
        self.data += b"\5\x1aconfiguration/capabilities" + (1).to_bytes(4) + (1).to_bytes(4) + b"\x0fx-ignore-shared"
        self.command(1, b"").command(2, b"\0\0\0\1").command(3, bytes(16))
        total = PAGE_BYTES * sum(self._blocks.values())
        self.data += b"\1" + RAM_SECTION.to_bytes(4) + b"\3ram\0\0\0\0\0\0\0\4" + (total | 4).to_bytes(8)
        for name, pages in self._blocks.items():
            self.data += bytes([len(name)]) + name + (pages * PAGE_BYTES).to_bytes(8)
        return self._end_section()

    def command(self, number: int, body: bytes) -> StreamWriter:
        """A command."""
        self.data += b"\x08" + number.to_bytes(2) + len(body).to_bytes(2) + body
        return self

    def part(self, pages: Iterable[tuple[bytes, int, bytes]], *, last: bool = False) -> StreamWriter:
        """A section of pages: block, page within it, content; an empty content is a zero page."""
        self.data += (b"\3" if last else b"\2") + RAM_SECTION.to_bytes(4)
        for name, page, content in pages:
            flags = 0x08 if content else 0x02
            known = self._block == name
            self._block = name
            self.data += (page << 12 | flags | (0x20 if known else 0)).to_bytes(8)
            self.data += b"" if known else bytes([len(name)]) + name
            self.data += content or b"\0"
        return self._end_section()

    def device_state(self, state: bytes) -> StreamWriter:
        """A full section of a device, and the end of the stream."""
        self.data += b"\4\0\0\0\7\5timer\0\0\0\0\0\0\0\2" + state + b"\x7e\0\0\0\7\0"
        return self

    def _end_section(self) -> StreamWriter:
        self.data += (0x10).to_bytes(8) + b"\x7e" + RAM_SECTION.to_bytes(4)
        return self


class GuestMemory:
    """What QEMU would have in memory after reading a stream, and the bytes that were no RAM records."""

    def __init__(self) -> None:
        self._parser = QemuStream(deltas=True)
        self._memory: NDArray[np.uint8] = np.zeros((0, PAGE_BYTES), dtype=np.uint8)
        self._others = blake3()

    def feed(self, data: bytes) -> None:
        """Apply more of the stream."""
        scan = self._parser.feed(data)
        if len(self._memory) < self._parser.page_count:
            self._memory = np.zeros((self._parser.page_count, PAGE_BYTES), dtype=np.uint8)
        ends = [*scan.starts.tolist(), scan.end][1:]
        for kind, start, end, body, page in zip(
            scan.kinds.tolist(), scan.starts.tolist(), ends, scan.bodies.tolist(), scan.pages.tolist(), strict=True
        ):
            match kind:
                case Kind.OPAQUE:
                    self._others.update(scan.buffer[start:end])
                case Kind.ZERO:
                    self._memory[page] = 0
                case Kind.PAGE:
                    self._memory[page] = np.frombuffer(scan.buffer, np.uint8, PAGE_BYTES, body)
                case _:
                    apply_delta(scan.buffer[body:end], self._memory[page])

    def digest(self) -> str:
        """Of all pages and of all that was no RAM record."""
        return self.pages_digest() + self._others.hexdigest()

    def pages_digest(self) -> str:
        """Of all pages."""
        return blake3(self._memory.data).hexdigest()
