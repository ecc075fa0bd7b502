"""The donor's end of the memory stream: QEMU's stream in, batches of news out. Pure. What a batch says is decided in
`memory_batch`; here is what is held back, and when.

Bytes wait for company up to a batch, or until the caller flushes because the socket pauses. Once the parser passes
(device state, post-copy, unknown streams), chunks go on at once, each by itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from services.node_agent.page_codec.batch import STORED_LEVEL, BatchPacker
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecStats
from services.node_agent.page_codec.hello import Technique
from services.node_agent.page_codec.memory_batch import MemoryBatch, MemoryState
from services.node_agent.page_codec.pace import Pace
from services.node_agent.page_codec.port_codec import PortEncoder
from services.node_agent.page_codec.sent_pages import SentPages
from services.node_agent.page_codec.zstd_codec import ZstdEncoder
from services.node_agent.qemu_stream import PAGE_BYTES, QemuStream

BATCH_BYTES: Final = MAX_CHUNK_BYTES - 16 * 1024
"""Raw bytes that are parsed at once; the record that was incomplete before adds a page at most."""
DEFAULT_COPIES: Final = 256 * 1024
"""Pages of which a copy is kept for deltas: 1 GiB at most, in a file."""


_COUNTED_AS_BYTES: Final = frozenset({"passed"})


class MemoryEncoder:
    """A `ChunkEncoder` for QEMU's stream. `encode` and `flush` raise DamagedStreamError."""

    def __init__(self, port: PortEncoder, *, level: int = 1, copies: int = DEFAULT_COPIES) -> None:
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
        self._state = self._make_state()
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0
        self._raw_bytes = 0
        self._wire_bytes = 0

    @property
    def holds_back(self) -> bool:
        """Whether bytes wait for company."""
        return self._held_bytes > 0

    @property
    def passing(self) -> str | None:
        """Why the stream is not looked into (any more)."""
        return self._stream.passing

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
            self._packer.level = self._pace.look(busy_s=busy_s, blocked_s=blocked_s, starved_s=starved_s)

    def encode(self, chunk: bytes) -> list[bytes]:
        """See `ChunkEncoder`."""
        self._raw_bytes += len(chunk)
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes < BATCH_BYTES and self.passing is None:
            return []
        payloads: list[bytes] = []
        while self._held_bytes >= BATCH_BYTES and self.passing is None:
            payloads += self._batch(self._take_held(BATCH_BYTES))
        if self.passing is not None:
            payloads += self._pass_on(b"".join(self._take_held(self._held_bytes)))
        return self._count(payloads)

    def flush(self) -> list[bytes]:
        """See `ChunkEncoder`."""
        return self._count(self._batch(self._take_held(self._held_bytes)) if self._held_bytes else [])

    def stats(self) -> CodecStats:
        """Counters so far."""
        contents = {
            kind: count * (1 if kind in _COUNTED_AS_BYTES else PAGE_BYTES) for kind, count in self.tally.items()
        }
        return CodecStats(raw_bytes=self._raw_bytes, wire_bytes=self._wire_bytes, contents=contents)

    def _take_held(self, size: int) -> list[bytes | memoryview]:
        """The first `size` bytes of what is held, in parts: only the parser copies them."""
        parts, taken = [], 0
        while taken < size:
            part = self._held.pop(0)
            if taken + len(part) > size:
                cut = size - taken
                self._held.insert(0, memoryview(part)[cut:])
                part = memoryview(part)[:cut]
            parts.append(part)
            taken += len(part)
        self._held_bytes -= size
        return parts

    def _make_state(self) -> MemoryState:
        pages = self._stream.page_count
        sent = SentPages(pages, copies=min(self._copies, pages), file=self._file)
        return MemoryState(index=self._index, sent=sent, blocks=self._stream.blocks, keeper=self._keeper)

    def _batch(self, parts: list[bytes | memoryview]) -> list[bytes]:
        known = self._stream.page_count
        scan = self._stream.feed(*parts)
        if not len(scan.kinds):
            return []
        if self._stream.page_count != known:
            tally, self._state = self._state.tally, self._make_state()
            self._state.tally = tally
        return [self._packer.pack(MemoryBatch(self._state, scan).columns())]

    def _pass_on(self, data: bytes) -> list[bytes]:
        self._state.tally["passed"] += len(data)
        payloads: list[bytes] = []
        for at in range(0, len(data), MAX_CHUNK_BYTES):
            payloads += self._chunks.encode(data[at : at + MAX_CHUNK_BYTES])
        return payloads

    def _count(self, payloads: list[bytes]) -> list[bytes]:
        if payloads and self._hello is not None:
            payloads.insert(0, self._hello)
            self._hello = None
        self._wire_bytes += sum(map(len, payloads))
        return payloads
