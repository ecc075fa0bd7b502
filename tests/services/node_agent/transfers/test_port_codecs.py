"""Codecs of a port's ends: which stream has which, and what the ends keep and give up."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.page_codec.disk.decoder import DiskDecoder
from services.node_agent.page_codec.disk.encoder import DiskEncoder
from services.node_agent.page_codec.disk.replies import ReplyDecoder, ReplyEncoder
from services.node_agent.page_codec.hello import Technique
from services.node_agent.page_codec.memory.decoder import MemoryDecoder
from services.node_agent.page_codec.memory.encoder import MemoryEncoder
from services.node_agent.page_codec.raw_codec import RawDecoder, RawEncoder
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder
from services.node_agent.transfers.port_codecs import DonorCodecs, RecipientCodecs
from shared.topology import Lane
from tests.support.lane_traffic import hot_stream


def types(pair: tuple[object, object]) -> tuple[type, type]:
    """Encoder's and decoder's."""
    return type(pair[0]), type(pair[1])


def test_pages_and_blocks_leave_the_donor_through_its_page_aware_encoders(tmp_path: Path) -> None:
    """The other direction, and the other lanes, are small."""
    codecs = DonorCodecs(tmp_path / "sent", scratch=tmp_path)
    assert types(codecs.pair(Lane.MEMORY)) == (MemoryEncoder, ZstdDecoder)
    assert types(codecs.pair(Lane.DISK)) == (DiskEncoder, ReplyDecoder)
    assert types(codecs.pair(Lane.CONTROL)) == types(codecs.pair(Lane.URGENT)) == (ZstdEncoder, ZstdDecoder)
    codecs.close()


def test_the_recipient_has_the_other_end_of_each(tmp_path: Path) -> None:
    """So every stream can be read."""
    codecs = RecipientCodecs(tmp_path / "received")
    assert types(codecs.pair(Lane.MEMORY)) == (ZstdEncoder, MemoryDecoder)
    assert types(codecs.pair(Lane.DISK)) == (ReplyEncoder, DiskDecoder)
    assert types(codecs.pair(Lane.CONTROL)) == (ZstdEncoder, ZstdDecoder)
    codecs.close()


def test_without_compression_the_small_streams_are_raw(tmp_path: Path) -> None:
    """As the ablations of the bench want it."""
    codecs = DonorCodecs(tmp_path / "sent", scratch=tmp_path, without=(Technique.COMPRESS,))
    assert types(codecs.pair(Lane.CONTROL)) == (RawEncoder, RawDecoder)
    codecs.close()


@pytest.mark.parametrize("keeps", [True, False])
def test_memory_that_went_in_full_is_cached_for_a_return_port(tmp_path: Path, *, keeps: bool) -> None:
    """Unless the settings say otherwise."""
    folder = tmp_path / "sent"
    codecs = DonorCodecs(folder, scratch=tmp_path, without=() if keeps else (Technique.CACHE,))
    encoder, _ = codecs.pair(Lane.MEMORY)
    encoder.encode(hot_stream(1))
    encoder.flush()
    codecs.close()
    codecs.close()
    assert folder.exists() is keeps


def test_a_full_disk_ends_the_cache_and_not_the_port(tmp_path: Path) -> None:
    """The folder cannot be made: a file is in its place."""
    (tmp_path / "sent").write_bytes(b"")
    codecs = DonorCodecs(tmp_path / "sent" / "x", scratch=tmp_path)
    encoder, _ = codecs.pair(Lane.MEMORY)
    encoder.encode(hot_stream(1))
    encoder.flush()
    assert codecs.port.keeper is None
    codecs.close()


@pytest.mark.parametrize("keeps", [True, False])
def test_what_the_recipient_received_stays_only_where_it_is_cached(tmp_path: Path, *, keeps: bool) -> None:
    """Written to its folder while the port runs, in any case."""
    folder = tmp_path / "received"
    donor = DonorCodecs(tmp_path / "sent", scratch=tmp_path)
    recipient = RecipientCodecs(folder, without=() if keeps else (Technique.CACHE,))
    stream, (encoder, _), (_, decoder) = hot_stream(1), donor.pair(Lane.MEMORY), recipient.pair(Lane.MEMORY)
    payloads = [*encoder.encode(stream), *encoder.flush()]
    assert b"".join(bytes(chunk) for payload in payloads for chunk in decoder.decode(payload)) == stream
    assert folder.exists()
    recipient.close()
    donor.close()
    assert folder.exists() is keeps
