"""A batch as it arrived: one that contradicts itself is refused."""

from __future__ import annotations

import pytest

from services.node_agent.page_codec.batch import BatchPacker, Column
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.memory.decoder import MemoryDecoder
from services.node_agent.page_codec.memory.format import MemoryKind
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from tests.support.memory_pages import KEY, batch, u32


@pytest.mark.parametrize(
    "payload",
    [
        batch(kinds=b"\x09"),
        batch(kinds=bytes([MemoryKind.ZERO])),
        batch(kinds=bytes([MemoryKind.ZERO]), pages=b"abc"),
        batch(kinds=bytes([MemoryKind.ZERO]), pages=u32(0xFFFFFFFF)),
        batch(kinds=bytes([0x80 | MemoryKind.ZERO]), pages=u32(1)),
        batch(kinds=bytes([0x80 | MemoryKind.ZERO]), pages=u32(1), names=b"\x09short"),
        batch(kinds=bytes([0x80]), opaque=u32(1), opaque_bytes=b"x"),
        batch(kinds=bytes([MemoryKind.OPAQUE]), opaque=u32(3), opaque_bytes=b"x"),
        batch(kinds=bytes([MemoryKind.LITERAL]), pages=u32(1), literals=bytes(100)),
        batch(kinds=bytes([MemoryKind.REFERENCE]), pages=u32(1), codes=u32(5)),
        batch(kinds=bytes([MemoryKind.REFERENCE]), pages=u32(1), codes=u32(3 << 30)),
        batch(kinds=bytes([MemoryKind.REFERENCE]) * 200, pages=u32(1) * 200, codes=u32(0) * 200),
        batch(kinds=bytes([MemoryKind.DELTA]), pages=u32(1), sizes=b"\5\0", deltas=b"ab"),
        BatchPacker().pack([Column(b"")]),
        b"\x03",
        b"",
        b"\x09what",
    ],
)
def test_damaged_batches_are_refused(store: FileStore, payload: bytes) -> None:
    """A batch that contradicts itself, or wants more than is there, is a codec error and nothing else."""
    decoder = MemoryDecoder(PortDecoder(lambda _: store))
    decoder.decode(PortEncoder(KEY).hello.encode())
    with pytest.raises(CodecError):
        decoder.decode(payload)
