"""The recipient's end of the memory stream: what it waits for, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import ContentMissingError, Origin
from services.node_agent.page_codec.memory.decoder import MemoryDecoder
from services.node_agent.page_codec.memory.encoder import MemoryEncoder
from services.node_agent.page_codec.memory.format import MemoryKind
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from tests.support.memory_pages import KEY, PAGE, RAM, batch, noise, u32
from tests.support.migration_stream import StreamWriter


def test_memory_refers_to_what_the_disk_sent(store: FileStore) -> None:
    """The page cache costs a reference; if the block is not there yet, the same call succeeds later."""
    port = PortEncoder(KEY)
    blocks = noise(1) + noise(2)
    port.contents.place(Origin.DISK, port.contents.ids(blocks))
    stream = bytes(StreamWriter().header().part([(RAM, 3, noise(2)), (RAM, 4, noise(1))]).data)
    encoder = MemoryEncoder(port)
    payloads = encoder.encode(stream) + encoder.flush()
    assert encoder.tally == {"reference": 2}
    decoder = MemoryDecoder(PortDecoder(lambda _: store))
    hello, batch = payloads
    assert decoder.decode(hello) == []
    for _ in range(2):
        with pytest.raises(ContentMissingError):
            decoder.decode(batch)
    store.append(Origin.DISK, np.frombuffer(blocks, dtype=np.uint8).reshape(-1, PAGE))
    assert b"".join(decoder.decode(batch)) == stream


@pytest.mark.parametrize("origin", [Origin.MEMORY, Origin.KNOWN])
def test_what_can_never_come_is_not_waited_for(store: FileStore, origin: Origin) -> None:
    """Only the disk lane may still bring a content that memory refers to."""
    decoder = MemoryDecoder(PortDecoder(lambda _: store))
    decoder.decode(PortEncoder(KEY).hello.encode())
    with pytest.raises(CodecError) as raised:
        decoder.decode(batch(kinds=bytes([MemoryKind.REFERENCE]), pages=u32(1), codes=u32(origin << 30 | 5)))
    assert not isinstance(raised.value, ContentMissingError)


def test_a_batch_before_the_hello_is_refused(store: FileStore) -> None:
    """Who does not say the version is not understood."""
    with pytest.raises(CodecError, match="before the hello"):
        MemoryDecoder(PortDecoder(lambda _: store)).decode(batch())
