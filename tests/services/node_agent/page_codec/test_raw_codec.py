from __future__ import annotations

import pytest

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError, CodecStats
from services.node_agent.page_codec.raw_codec import RawDecoder, RawEncoder


def test_bytes_are_untouched_and_counted() -> None:
    """The raw codec hands chunks through as they are."""
    encoder, decoder = RawEncoder(), RawDecoder()
    assert encoder.encode(b"abc") == [b"abc"]
    assert encoder.encode(b"") == []
    assert encoder.flush() == []
    assert not encoder.holds_back
    assert decoder.decode(b"abc") == [b"abc"]
    assert decoder.decode(b"") == []
    assert encoder.stats() == decoder.stats() == CodecStats(raw_bytes=3, wire_bytes=3)


def test_oversized_payload_is_refused() -> None:
    """A payload cannot be longer than a chunk."""
    with pytest.raises(CodecError, match="at most"):
        RawDecoder().decode(bytes(MAX_CHUNK_BYTES + 1))
