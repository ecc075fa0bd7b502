from __future__ import annotations

import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError, CodecStats
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder


@given(st.lists(st.binary(max_size=2000)))
def test_roundtrip(chunks: list[bytes]) -> None:
    """Chunks come out as they went in, and both sides count the same bytes."""
    encoder, decoder = ZstdEncoder(), ZstdDecoder()
    payloads = [payload for chunk in chunks for payload in encoder.encode(chunk)]
    assert b"".join(bytes(part) for payload in payloads for part in decoder.decode(payload)) == b"".join(chunks)
    assert encoder.stats() == decoder.stats()
    assert encoder.flush() == []
    assert not encoder.holds_back


def test_zeroes_shrink_and_random_is_stored() -> None:
    """What does not shrink costs one byte more, never more than that."""
    encoder, decoder = ZstdEncoder(), ZstdDecoder()
    (zeroes,) = encoder.encode(bytes(MAX_CHUNK_BYTES))
    assert len(zeroes) < 100
    noise = os.urandom(MAX_CHUNK_BYTES)
    (stored,) = encoder.encode(noise)
    assert stored == b"\x00" + noise
    assert decoder.decode(zeroes) == [bytes(MAX_CHUNK_BYTES)]
    assert decoder.decode(stored) == [noise]
    assert encoder.stats() == CodecStats(raw_bytes=2 * MAX_CHUNK_BYTES, wire_bytes=len(zeroes) + len(stored))


def test_oversized_chunk_is_not_encoded() -> None:
    """The encoder's limit is the decoder's."""
    with pytest.raises(ValueError, match="over"):
        ZstdEncoder().encode(bytes(MAX_CHUNK_BYTES + 1))


def packed(data: bytes, *, with_size: bool = True) -> bytes:
    return b"\x01" + zstandard.ZstdCompressor(write_content_size=with_size).compress(data)


@pytest.mark.parametrize(
    ("payload", "finding"),
    [
        (b"", "too few"),
        (b"\x00", "too few"),
        (b"\x09abc", "method 9 is unknown"),
        (b"\x00" + bytes(MAX_CHUNK_BYTES + 1), "stored chunk"),
        (packed(bytes(64 * 1024 * 1024)), "declares 67108864 bytes"),
        (packed(b"x" * 1000, with_size=False), "an unknown size"),
        (packed(b"x" * 1000)[:-1], "zstd"),
        (packed(b"x" * 1000) + b"y", "zstd"),
        (b"\x01not zstd at all", "zstd"),
        (packed(b""), "0 bytes"),
    ],
)
def test_bad_payload_is_a_codec_error(payload: bytes, finding: str) -> None:
    """Damaged, foreign and oversized payloads are refused with a sentence; a bomb is refused before it is unpacked."""
    with pytest.raises(CodecError, match=finding):
        ZstdDecoder().decode(payload)


@given(st.binary(max_size=300), st.binary(max_size=500))
def test_damage_never_raises_anything_else(noise: bytes, data: bytes) -> None:
    """Whatever arrives, the only exception is a CodecError, and never more than a chunk comes out."""
    (good,) = ZstdEncoder().encode(data) or [b"\x01"]
    for payload in (noise, b"\x01" + noise, good[: len(good) // 2] + noise):
        try:
            parts = ZstdDecoder().decode(payload)
        except CodecError:
            continue
        assert sum(len(part) for part in parts) <= MAX_CHUNK_BYTES
