"""The recipient's end of the memory stream: batches in, a stream for QEMU out. Pure. See `format`.

It keeps no copy of the guest: references are resolved in the port's content store, deltas go on as XBZRLE records,
which QEMU applies to its own memory. A reference to what another lane has still to bring raises ContentMissingError,
and the same call succeeds later.
"""

from __future__ import annotations

from services.node_agent.page_codec.batch import METHOD_BATCH, METHOD_HELLO, BatchUnpacker
from services.node_agent.page_codec.codec import CodecError, CodecStats
from services.node_agent.page_codec.contents import ContentStore
from services.node_agent.page_codec.memory.received_batch import ReceivedBatch
from services.node_agent.page_codec.port_codec import PortDecoder
from services.node_agent.page_codec.zstd_codec import ZstdDecoder


class MemoryDecoder:
    """A `ChunkDecoder` for QEMU's stream."""

    def __init__(self, port: PortDecoder) -> None:
        self._port = port
        self._store: ContentStore | None = None
        self._unpacker = BatchUnpacker()
        self._chunks = ZstdDecoder()
        self._last_page = 0
        self._last_code = 0
        self._pending: ReceivedBatch | None = None
        self._raw_bytes = 0
        self._wire_bytes = 0

    def decode(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        """See `ChunkDecoder`. After ContentMissingError call it again with the same payload when more has arrived."""
        if self._pending is None:
            self._wire_bytes += len(payload)
            method = payload[0] if len(payload) else None
            if method == METHOD_HELLO:
                self._store = self._port.greet(payload)
                return []
            if method != METHOD_BATCH:
                return self._count(self._chunks.decode(payload))
            self._pending = self._read(payload)
        data = self._pending.write(self._store_of_port())
        self._pending = None
        return self._count([data] if data else [])

    def stats(self) -> CodecStats:
        """Counters so far."""
        return CodecStats(raw_bytes=self._raw_bytes, wire_bytes=self._wire_bytes)

    def _count(self, chunks: list[bytes | memoryview]) -> list[bytes | memoryview]:
        self._raw_bytes += sum(map(len, chunks))
        return chunks

    def _read(self, payload: bytes | memoryview) -> ReceivedBatch:
        self._store_of_port()
        columns = self._unpacker.unpack(payload)
        batch = ReceivedBatch.read(columns, last_page=self._last_page, last_code=self._last_code)
        self._last_page, self._last_code = batch.last_page, batch.last_code
        return batch

    def _store_of_port(self) -> ContentStore:
        if self._store is None:
            raise CodecError(finding="a batch before the hello")
        return self._store
