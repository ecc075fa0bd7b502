"""The way back of a disk stream: bytes as they are, damage noticed at either end."""

from __future__ import annotations

import struct

import pytest

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.disk.nbd_stream import NbdFacts, ReplyScanner
from services.node_agent.page_codec.disk.replies import ReplyDecoder, ReplyEncoder
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder

REPLIES = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3) + struct.pack(">IIQ", 0x67446698, 0, 1) * 50


def test_replies_come_back_as_they_were() -> None:
    """Both ends count the same bytes; nothing waits."""
    encoder = ReplyEncoder(ReplyScanner(NbdFacts()), ZstdEncoder())
    decoder = ReplyDecoder(ReplyScanner(NbdFacts()), ZstdDecoder())
    found = b""
    for at in range(0, len(REPLIES), 37):
        for payload in encoder.encode(REPLIES[at : at + 37]):
            found += b"".join(bytes(chunk) for chunk in decoder.decode(payload))
        assert not encoder.holds_back
        assert encoder.flush() == []
    assert found == REPLIES
    assert encoder.stats() == decoder.stats()


def test_damage_is_an_error_at_either_end() -> None:
    """A server that breaks the protocol ends the stream where that is seen."""
    damaged = REPLIES + b"what?"
    with pytest.raises(CodecError, match="a reply begins with"):
        ReplyEncoder(ReplyScanner(NbdFacts()), ZstdEncoder()).encode(damaged)
    with pytest.raises(CodecError, match="a reply begins with"):
        ReplyDecoder(ReplyScanner(NbdFacts()), ZstdDecoder()).decode(*ZstdEncoder().encode(damaged))
