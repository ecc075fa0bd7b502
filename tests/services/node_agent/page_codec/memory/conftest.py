"""A recipient's store, and a memory stream through both ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from services.node_agent.page_codec.hello import ALL
from services.node_agent.page_codec.memory.decoder import MemoryDecoder
from services.node_agent.page_codec.memory.encoder import MemoryEncoder
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from tests.support.memory_pages import KEY


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """A recipient's store."""
    return FileStore(tmp_path / "store", keep=1 << 20)


@pytest.fixture
def move(tmp_path: Path) -> Callable[..., tuple[bytes, MemoryEncoder]]:
    """Sends a stream through an encoder and a decoder: what comes out, and the encoder."""
    count = iter(range(10**6))

    def through(
        stream: bytes | list[bytes],
        *,
        step: int = 10**6,
        flush_every: int = 0,
        hold: int | None = None,
        **options: object,
    ) -> tuple[bytes, object]:
        techniques = options.pop("techniques", ALL)
        assert isinstance(techniques, frozenset)
        encoder = MemoryEncoder(PortEncoder(KEY, techniques=techniques), **options)  # type: ignore[arg-type]  # by name
        if hold is not None:
            encoder.hold_at_most(hold)
        pieces = [stream[at : at + step] for at in range(0, len(stream), step)] if isinstance(stream, bytes) else stream
        with FileStore(tmp_path / str(next(count)), keep=1 << 20) as contents:
            decoder = MemoryDecoder(PortDecoder(lambda _: contents))
            out = bytearray()
            for number, piece in enumerate(pieces):
                payloads = encoder.encode(piece)
                if flush_every and number % flush_every == 0:
                    payloads += encoder.flush()
                for payload in payloads:
                    out += b"".join(decoder.decode(payload))
            for payload in encoder.flush():
                out += b"".join(decoder.decode(payload))
        assert encoder.stats().raw_bytes == sum(map(len, pieces))
        assert decoder.stats().wire_bytes == encoder.stats().wire_bytes
        return bytes(out), encoder

    return through  # type: ignore[return-value]  # the fixture's signature is for its users
