"""The donor's end of the memory stream: QEMU's stream in, batches of new data out. Pure. `batch` decides what a batch
says; here is what is held back, and when.

Two things are held back. Bytes wait until they fill a batch, or until the caller flushes because the socket
pauses. Once the parser passes (device state, post-copy, unknown streams), chunks go on at once, each by itself.

Hot pages wait longer (`held_pages`), and come out as records elsewhere in the stream than where QEMU wrote them:
before the EOS of a section when they have cooled, and before the EOS of the last section whatever still waits. The
recipient's guest has the newest version of every page there, before the device state. Post-copy begins without a last
section, at a command between two sections; what waits goes before it, in a section of its own, which is as good as one
of QEMU's: until then the recipient reads memory as in pre-copy, and pages that changed since are in the list that
QEMU has discarded next. A stream that ends before any of that is of a migration that failed.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from services.node_agent.page_codec.batch import STORED_LEVEL, BatchPacker
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecStats
from services.node_agent.page_codec.contents import CONTENT_BYTES, Pages
from services.node_agent.page_codec.hello import Technique
from services.node_agent.page_codec.memory.batch import MemoryBatch, MemoryState
from services.node_agent.page_codec.memory.held_pages import DEFAULT_HOLD_BYTES, HeldPages
from services.node_agent.page_codec.memory.qemu_format import PAGE_BYTES
from services.node_agent.page_codec.memory.qemu_stream import QemuStream
from services.node_agent.page_codec.memory.scan import Kind, Mark, Scan
from services.node_agent.page_codec.memory.sent_pages import PageNumbers, SentPages
from services.node_agent.page_codec.pace import DEFAULT_LEVEL, Pace
from services.node_agent.page_codec.port_codec import PortEncoder
from services.node_agent.page_codec.zstd_codec import ZstdEncoder

BATCH_BYTES: Final = MAX_CHUNK_BYTES - 16 * 1024
"""Raw bytes that are parsed at once; the record that was incomplete before adds a page at most."""
DEFAULT_COPIES: Final = 256 * 1024
"""Pages of which a copy is kept for deltas: 1 GiB at most, in a file."""

_FAR: Final = 0.25
"""While more than this part of the guest's memory is to come, through which QEMU's first round goes upwards, the
switchover is far: what waits will have left before QEMU can want it. From there on less and less may wait, and nothing
at the end of the round."""
_RELEASED_AT_ONCE: Final = 56
"""Pages that go in one batch when they waited: 224 KiB, as much as another batch."""
_COUNTED_AS_BYTES: Final = frozenset({"passed"})


class MemoryEncoder:
    """A `ChunkEncoder` for QEMU's stream. `encode` and `flush` raise DamagedStreamError."""

    def __init__(self, port: PortEncoder, *, level: int = DEFAULT_LEVEL, copies: int = DEFAULT_COPIES) -> None:
        self._hello: bytes | None = port.hello.encode()
        self._index = port.contents if Technique.DEDUP in port.techniques else None
        self._copies = copies if Technique.DELTA in port.techniques else 0
        compress = Technique.COMPRESS in port.techniques
        self._packer = BatchPacker(level=level if compress else STORED_LEVEL)
        self._pace = Pace(level=level) if compress and Technique.ADAPT in port.techniques else None
        self._chunks = ZstdEncoder()
        self._stream = QemuStream()
        self._keeper = port.keeper
        self._file = port.open_copies()
        self._hold_bytes = DEFAULT_HOLD_BYTES if Technique.HOT in port.techniques else None
        self._holding = True
        self._state = self._make_state()
        self._furthest_page = 0
        self._newest: tuple[Scan, int] | None = None  # the record that was understood last, and its row
        self._unread: list[bytes | memoryview] = []
        self._unread_bytes = 0
        self._raw_bytes = 0
        self._wire_bytes = 0

    @property
    def holds_back(self) -> bool:
        """Whether bytes wait to fill a batch. Hot pages do not count: they are released by other rules."""
        return self._unread_bytes > 0

    @property
    def held_bytes(self) -> int:
        """See `Holding`."""
        return self._state.held.held_bytes if self._state.held is not None else 0

    def hold_at_most(self, limit_bytes: int) -> None:
        """See `Holding`. Without Technique.HOT nothing is held."""
        if self._hold_bytes is not None:
            self._hold_bytes = limit_bytes
        if self._state.held is not None:
            self._state.held.limit_bytes = limit_bytes

    @property
    def lead(self) -> float:
        """See `Leading`."""
        if self.passthrough is not None or not self._stream.page_count:
            return 0.0
        to_go = 1 - self._furthest_page / self._stream.page_count
        return min(1.0, to_go / _FAR)

    @property
    def passthrough(self) -> str | None:
        """Why the stream is not looked into (any more)."""
        return self._stream.passthrough

    @property
    def tally(self) -> Counter[str]:
        """Pages by what went for them; `passed` counts bytes."""
        return self._state.tally

    @property
    def level(self) -> int:
        """zstd's level, STORED_LEVEL for none."""
        return self._packer.level

    def adapt(self, *, busy_s: float, blocked_s: float, starved_s: float) -> None:
        """See `Adaptive`."""
        if self._pace is not None:
            self._packer.level = self._pace.sample(busy_s=busy_s, blocked_s=blocked_s, starved_s=starved_s)

    def encode(self, chunk: bytes) -> list[bytes]:
        """See `ChunkEncoder`."""
        self._raw_bytes += len(chunk)
        self._unread.append(chunk)
        self._unread_bytes += len(chunk)
        if self._unread_bytes < BATCH_BYTES and self.passthrough is None:
            return []
        payloads: list[bytes] = []
        while self._unread_bytes >= BATCH_BYTES and self.passthrough is None:
            payloads += self._read(self._next_unread(BATCH_BYTES))
        if self.passthrough is not None:
            payloads += self._pass_through(b"".join(self._next_unread(self._unread_bytes)))
        return self._count(payloads)

    def flush(self) -> list[bytes]:
        """See `ChunkEncoder`."""
        return self._count(self._read(self._next_unread(self._unread_bytes)) if self._unread_bytes else [])

    def stats(self) -> CodecStats:
        """Counters so far."""
        contents = {
            kind: count * (1 if kind in _COUNTED_AS_BYTES else PAGE_BYTES) for kind, count in self.tally.items()
        }
        return CodecStats(raw_bytes=self._raw_bytes, wire_bytes=self._wire_bytes, contents=contents)

    def _next_unread(self, size: int) -> list[bytes | memoryview]:
        """The first `size` bytes of what waits for company, in parts: only the parser copies them."""
        parts, taken = [], 0
        while taken < size:
            part = self._unread.pop(0)
            if taken + len(part) > size:
                cut = size - taken
                self._unread.insert(0, memoryview(part)[cut:])
                part = memoryview(part)[:cut]
            parts.append(part)
            taken += len(part)
        self._unread_bytes -= size
        return parts

    def _make_state(self) -> MemoryState:
        pages = self._stream.page_count
        sent = SentPages(pages, copies=min(self._copies, pages), file=self._file)
        held = HeldPages(pages, limit_bytes=self._hold_bytes) if self._hold_bytes is not None else None
        return MemoryState(index=self._index, sent=sent, blocks=self._stream.blocks, keeper=self._keeper, held=held)

    def _read(self, parts: list[bytes | memoryview]) -> list[bytes]:
        known = self._stream.page_count
        scan = self._stream.feed(*parts)
        if not len(scan.kinds):
            return []
        self._furthest_page = max(self._furthest_page, int(scan.pages.max()))
        if self._stream.page_count != known:
            # QEMU listed its RAM blocks: pages have other numbers now, so what is known of them starts again.
            tally, self._state = self._state.tally, self._make_state()
            self._state.tally = tally
        if self._state.held is None:
            return [self._pack(scan.part(0, len(scan.kinds)))]
        self._remember_newest(scan)
        return self._pack_around(scan, self._state.held)

    def _pack(self, scan: Scan, *, hold: bool = False) -> bytes:
        return self._packer.pack(MemoryBatch(self._state, scan, hold=hold).columns())

    def _pack_around(self, scan: Scan, held: HeldPages) -> list[bytes]:
        """The scan, cut where pages that waited go between its elements."""
        payloads: list[bytes] = []
        begin = 0
        for row, mark in scan.marks:
            # Nothing is due here, so the batch goes on: a cut costs a payload of its own.
            if mark is Mark.RECORDS_END and not len(self._due(held)):
                continue
            if row > begin:
                payloads.append(self._pack(scan.part(begin, row), hold=self._holding))
                begin = row
            match mark:
                case Mark.LAST_SECTION:
                    self._holding = False
                case Mark.RECORDS_END:
                    payloads += self._release(held, self._due(held))
                case Mark.PASSTHROUGH:
                    self._holding = False
                    payloads += self._release_before_end(held)
        if begin < len(scan.kinds):
            payloads.append(self._pack(scan.part(begin, len(scan.kinds)), hold=self._holding))
        return payloads

    def _due(self, held: HeldPages) -> PageNumbers:
        """What should go where a section's records end."""
        return held.due() if self._holding else held.pages()

    def _release_before_end(self, held: HeldPages) -> list[bytes]:
        """All that waits, before the first byte that is not understood."""
        if self._stream.in_records:
            return self._release_in_block(held)
        if not len(held):
            return []
        head, end = self._stream.section()
        return [self._pack(_opaque(head)), *self._release_in_block(held), self._pack(_opaque(end))]

    def _release_in_block(self, held: HeldPages) -> list[bytes]:
        """All that waits, and then the recipient is in the block that QEMU is in: what follows may continue it."""
        payloads = self._release(held, held.pages())
        block, last = self._stream.block, self._state.last_block
        if block is not None and (last < 0 or self._state.blocks[last] != block):
            # Pages that waited, now or before, were of other blocks. QEMU's newest record leads back.
            payloads.append(self._pack(self._newest_again()))
        return payloads

    def _remember_newest(self, scan: Scan) -> None:
        rows = np.flatnonzero(scan.pages >= 0)
        if len(rows):
            self._newest = scan, int(rows[-1])

    def _newest_again(self) -> Scan:
        """QEMU's newest record once more, as a full page."""
        if self._newest is None:
            return _records(np.zeros(1, dtype=np.int64), np.zeros((1, CONTENT_BYTES), dtype=np.uint8))
        scan, row = self._newest
        content = np.zeros((1, CONTENT_BYTES), dtype=np.uint8)
        if scan.kinds[row] != Kind.ZERO:
            content[0] = np.frombuffer(scan.buffer, np.uint8, CONTENT_BYTES, int(scan.bodies[row]))
        return _records(scan.pages[row : row + 1], content)

    def _release(self, held: HeldPages, pages: PageNumbers) -> list[bytes]:
        """Records of these pages. Those of the block that QEMU is in go last: so the recipient is in it, too."""
        if (block := self._stream.block) is not None:
            inside = (pages >= block.first_page) & (pages < block.first_page + block.pages)
            pages = np.concatenate([pages[~inside], pages[inside]])
        return [
            self._pack(_records(part, held.pop(part)))
            for part in (pages[at : at + _RELEASED_AT_ONCE] for at in range(0, len(pages), _RELEASED_AT_ONCE))
        ]

    def _pass_through(self, data: bytes) -> list[bytes]:
        self._state.tally["passed"] += len(data)
        payloads: list[bytes] = []
        for at in range(0, len(data), MAX_CHUNK_BYTES):
            payloads += self._chunks.encode(data[at : at + MAX_CHUNK_BYTES])
        return payloads

    def _count(self, payloads: list[bytes]) -> list[bytes]:
        if payloads and self._hello is not None:
            # The first payload of the stream is the hello, whatever follows it.
            payloads.insert(0, self._hello)
            self._hello = None
        self._wire_bytes += sum(map(len, payloads))
        return payloads


def _records(pages: PageNumbers, contents: Pages) -> Scan:
    """A scan of full pages."""
    places = CONTENT_BYTES * np.arange(len(pages))
    return Scan(
        buffer=contents.tobytes(),
        end=contents.size,
        kinds=np.full(len(pages), Kind.PAGE, dtype=np.uint8),
        starts=places,
        bodies=places,
        pages=pages,
        named=np.zeros(len(pages), dtype=np.bool_),
    )


def _opaque(data: bytes) -> Scan:
    """A scan of one element that is no record."""
    nowhere = np.zeros(1, dtype=np.int64)
    return Scan(
        buffer=data,
        end=len(data),
        kinds=np.array([Kind.OPAQUE], dtype=np.uint8),
        starts=nowhere,
        bodies=nowhere,
        pages=nowhere - 1,
        named=np.zeros(1, dtype=np.bool_),
    )
