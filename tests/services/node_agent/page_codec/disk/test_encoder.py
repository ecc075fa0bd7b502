"""Disk streams through both ends of the codec: the same bytes come out, and few go over the wire."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.page_codec.batch import BatchPacker, Column
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentMissingError, Origin
from services.node_agent.page_codec.disk.decoder import DiskDecoder
from services.node_agent.page_codec.disk.encoder import DiskEncoder
from services.node_agent.page_codec.disk.format import MAX_OUT_BYTES
from services.node_agent.page_codec.disk.nbd_stream import NbdFacts
from services.node_agent.page_codec.hello import ALL, Technique
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from shared.page_stream.bodies import LaneRole

KEY = bytes(32)
FLAGS = struct.pack(">I", 3)
NOISE = np.random.default_rng(7).bytes(64 * CONTENT_BYTES)


def write(offset: int, data: bytes, *, extended: bool = False) -> bytes:
    if extended:
        return struct.pack(">IHHQQQ", 0x21E41C71, 32, 1, 9, offset, len(data)) + data
    return struct.pack(">IHHQQI", 0x25609513, 0, 1, 9, offset, len(data)) + data


def block(number: int) -> bytes:
    return NOISE[number * CONTENT_BYTES :][:CONTENT_BYTES]


class Ends:
    """Both ends of one port's disk stream."""

    def __init__(self, folder: Path, *, techniques: frozenset[Technique] = ALL, keep: int | None = None) -> None:
        self.store = FileStore(folder, keep=keep or 1024)
        self.port = PortEncoder(KEY, techniques=techniques)
        self.encoder = DiskEncoder(self.port, NbdFacts())
        self.decoder = DiskDecoder(PortDecoder(lambda _: self.store), NbdFacts())
        self.wire_bytes = 0

    def carry(self, payloads: Sequence[bytes]) -> bytes:
        found = bytearray()
        for payload in payloads:
            self.wire_bytes += len(payload)
            given_out = [bytes(each) for each in self.decoder.decode(payload)]
            assert sum(map(len, given_out)) <= MAX_OUT_BYTES
            found += b"".join(given_out)
        return bytes(found)

    def send(self, data: bytes, cuts: Sequence[int] = (), *, flush: bool = False) -> bytes:
        found = bytearray()
        borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        for start, end in pairwise(borders):
            for at in range(start, end, MAX_CHUNK_BYTES):
                found += self.carry(self.encoder.encode(data[at : min(end, at + MAX_CHUNK_BYTES)]))
                if flush:
                    found += self.carry(self.encoder.flush())
                    assert not self.encoder.holds_back
        found += self.carry(self.encoder.flush())
        assert self.encoder.stats() == self.decoder.stats()
        return bytes(found)


@st.composite
def connections(draw: st.DrawFn) -> bytes:
    """Requests of a connection whose writes repeat themselves, and begin and end anywhere."""
    stream = bytearray(FLAGS)
    extended = draw(st.booleans())
    for _ in range(draw(st.integers(0, 6))):
        blocks = b"".join(
            draw(st.lists(st.sampled_from([block(0), block(1), block(2), bytes(CONTENT_BYTES)]), max_size=6))
        )
        odd = draw(st.sampled_from([b"", b"x" * 512, b"y" * 5]))
        offset = 1 << 20 if draw(st.booleans()) else draw(st.integers(0, 1 << 20))
        stream += write(offset, odd + blocks if draw(st.booleans()) else blocks + odd, extended=extended)
    return bytes(stream)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(connections(), st.lists(st.integers(0, 200_000), max_size=20), st.booleans())
def test_the_same_bytes_come_out(
    tmp_path_factory: pytest.TempPathFactory,
    stream: bytes,
    cuts: list[int],
    flush: bool,  # noqa: FBT001  # drawn
) -> None:
    """However the connection is cut and flushed, its bytes arrive as they were."""
    ends = Ends(tmp_path_factory.mktemp("disk"))
    with ends.store:
        assert ends.send(stream, cuts, flush=flush) == stream


@pytest.mark.parametrize(
    "techniques", [ALL, frozenset({Technique.DEDUP}), frozenset({Technique.COMPRESS}), frozenset()]
)
def test_every_choice_of_techniques_is_exact(tmp_path: Path, techniques: frozenset[Technique]) -> None:
    """What is switched off costs bytes, never correctness."""
    ends = Ends(tmp_path, techniques=techniques)
    stream = FLAGS + b"".join(write(at, block(at % 3) + bytes(CONTENT_BYTES) + b"a" * 4096) for at in range(0, 90, 3))
    with ends.store:
        assert ends.send(stream, range(0, len(stream), 70_001)) == stream


def test_zeros_and_repeats_cost_next_to_nothing(tmp_path: Path) -> None:
    """A block that was sent goes as a reference, zeros as one run."""
    ends = Ends(tmp_path)
    with ends.store:
        first = FLAGS + write(0, NOISE)
        assert ends.send(first) == first
        once = ends.wire_bytes
        assert once < len(NOISE) + 500
        again = write(1 << 30, NOISE) + write(2 << 30, bytes(1 << 20))
        assert ends.send(again) == again
        assert ends.wire_bytes - once < 600
    kinds = ends.encoder.raw_bytes_by_kind
    assert (kinds["full"], kinds["disk"], kinds["zero"]) == (len(NOISE), len(NOISE), 1 << 20)


def test_a_full_chunk_with_a_tail_fits(tmp_path: Path) -> None:
    """What waits for its rest never makes a payload too large."""
    ends = Ends(tmp_path)
    noise = os.urandom(3 * MAX_CHUNK_BYTES)
    stream = FLAGS + write(0, noise)
    with ends.store:
        assert ends.send(stream, [MAX_CHUNK_BYTES - 100, 2 * MAX_CHUNK_BYTES - 100]) == stream


def test_a_reference_waits_for_the_memory_lane(tmp_path: Path) -> None:
    """A content that memory sends is referred to before it is there; the payload can be decoded again when it is."""
    ends = Ends(tmp_path)
    page = block(5)
    ends.port.contents.place(Origin.MEMORY, ends.port.contents.ids(page))
    stream = FLAGS + write(0, block(1) + page + block(1))
    hello, payload = ends.encoder.encode(stream)
    with ends.store:
        assert ends.decoder.decode(hello) == []
        for _ in range(2):
            with pytest.raises(ContentMissingError) as caught:
                ends.decoder.decode(payload)
            assert (caught.value.origin, caught.value.number) == (Origin.MEMORY, 0)
        ends.store.append(Origin.MEMORY, np.frombuffer(page, dtype=np.uint8).reshape(1, -1))
        assert b"".join(bytes(each) for each in ends.decoder.decode(payload)) == stream
        assert ends.store.count(Origin.DISK) == 1
        # The block of the first connection is known to a second one.
        assert ends.send(write(0, block(1))) == write(0, block(1))


def test_no_nbd_passes(tmp_path: Path) -> None:
    """A stream that is not understood arrives all the same."""
    ends = Ends(tmp_path)
    stream = b"\x16\x03\x01" + NOISE
    with ends.store:
        assert ends.send(stream, [1, 2, 77]) == stream


def test_damaged_nbd_is_an_error_at_the_donor(tmp_path: Path) -> None:
    """A broken connection is not carried on."""
    ends = Ends(tmp_path)
    with ends.store, pytest.raises(CodecError, match="a request begins with"):
        ends.encoder.encode(FLAGS + write(0, b"x") + b"garbage")


def test_a_wrong_disk_never_leaves_the_decoder(tmp_path: Path) -> None:
    """Requests that are no NBD are an error at the recipient, too, before a byte is given out."""
    ends = Ends(tmp_path)
    with ends.store:
        ends.decoder.decode(ends.port.hello.encode())
        plain = FLAGS + write(0, b"x") + b"garbage"
        columns = [bytes([0]), struct.pack("<I", len(plain)), plain, b"", b"", b""]
        with pytest.raises(CodecError, match="a request begins with"):
            ends.decoder.decode(BatchPacker().pack([Column(each) for each in columns]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(max_size=40), min_size=6, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**32 - 1)), max_size=4),
)
def test_any_columns_are_decoded_or_refused(tmp_path: Path, columns: list[bytes], runs: list[tuple[int, int]]) -> None:
    """A wrong batch ends in CodecError, without taking memory for what it claims."""
    ends = Ends(tmp_path)
    with ends.store:
        ends.decoder.decode(ends.port.hello.encode())
        columns[0] = bytes(kind for kind, _ in runs)
        columns[1] = b"".join(struct.pack("<I", count) for _, count in runs)
        with suppress(CodecError):
            ends.decoder.decode(BatchPacker().pack([Column(each) for each in columns]))


def test_two_connections_may_arrive_in_another_order(tmp_path: Path) -> None:
    """Two disks are two streams: one may wait for its socket while the other goes on."""
    store = FileStore(tmp_path, keep=1024)
    port, arrived = PortEncoder(KEY), PortDecoder(lambda _: store)
    encoders = [DiskEncoder(port, NbdFacts()) for _ in range(2)]
    decoders = [DiskDecoder(arrived, NbdFacts()) for _ in range(2)]
    first = [FLAGS + write(0, block(1) + block(2)), FLAGS + write(0, block(3) + block(4))]
    again = write(1 << 20, block(1) + block(2) + block(3) + block(4))
    payloads = [encoder.encode(stream) for encoder, stream in zip(encoders, first, strict=True)]
    again_payloads = encoders[1].encode(again)
    found = [b"", b""]
    with store:
        for payload in payloads[1]:
            found[1] += b"".join(bytes(each) for each in decoders[1].decode(payload))
        with pytest.raises(ContentMissingError):
            decoders[1].decode(*again_payloads)
        for payload in payloads[0]:
            found[0] += b"".join(bytes(each) for each in decoders[0].decode(payload))
        assert found == first
        assert b"".join(bytes(each) for each in decoders[1].decode(*again_payloads)) == again


def payload_sizes(ends: Ends, *chunks: bytes) -> list[int]:
    """How many payloads each chunk gives; all of it arrives."""
    counts, found = [], b""
    for chunk in chunks:
        payloads = ends.encoder.encode(chunk)
        found += ends.carry(payloads)
        counts.append(len(payloads))
    assert found + ends.carry(ends.encoder.flush()) == b"".join(chunks)
    return counts


def test_references_wait_for_the_rest_of_their_request(tmp_path: Path) -> None:
    """One payload for all of them; when the request is whole, nothing waits."""
    ends = Ends(tmp_path / "store")
    known = block(1) * 8
    assert ends.send(FLAGS + write(0, known)) == FLAGS + write(0, known)
    request = write(0, known * 4)
    third = len(request) // 3
    assert payload_sizes(ends, request[:third], request[third : 2 * third], request[2 * third :]) == [0, 0, 1]
    assert not ends.encoder.holds_back


def test_new_contents_wait_for_nothing(tmp_path: Path) -> None:
    """Other streams may refer to them; what waited before goes with them."""
    ends = Ends(tmp_path / "store")
    ends.send(FLAGS + write(0, block(1)))
    request = write(0, block(1) + block(1) + block(2) + block(3))
    cut = len(request) - 2 * CONTENT_BYTES
    assert payload_sizes(ends, request[:cut], request[cut:-CONTENT_BYTES], request[-CONTENT_BYTES:]) == [0, 1, 1]


def test_no_batch_becomes_more_than_is_allowed(tmp_path: Path) -> None:
    """A request may be longer than a batch."""
    ends = Ends(tmp_path / "store")
    ends.send(FLAGS + write(0, block(1)))
    request = write(0, block(1) * (3 * MAX_OUT_BYTES // CONTENT_BYTES))
    chunks = [request[at : at + MAX_CHUNK_BYTES] for at in range(0, len(request), MAX_CHUNK_BYTES)]
    assert sum(payload_sizes(ends, *chunks)) == 4


@pytest.mark.parametrize("trims", [0, 50, 500])
def test_what_waited_and_a_chunk_of_new_contents_fit_one_frame(tmp_path: Path, trims: int) -> None:
    """Where nothing is compressed, too: a payload that is cut cannot be decoded."""
    ends = Ends(tmp_path / "store", techniques=ALL - {Technique.COMPRESS})
    ends.send(FLAGS + write(0, block(1)))
    before = struct.pack(">IHHQQI", 0x25609513, 0, 4, 9, 0, CONTENT_BYTES) * trims
    noise = os.urandom(MAX_CHUNK_BYTES)
    request = before + write(0, (block(1) + bytes(CONTENT_BYTES)) * 16 + noise)
    cut = len(request) - len(noise)
    payloads = ends.encoder.encode(request[:cut]) + ends.encoder.encode(request[cut:])
    assert max(map(len, payloads)) <= LaneSettings(lane="p.disk", role=LaneRole.INITIATOR).max_payload_bytes
    assert ends.carry(payloads) + ends.carry(ends.encoder.flush()) == request
