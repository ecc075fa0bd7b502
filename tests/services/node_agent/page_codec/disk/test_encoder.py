"""Disk streams through both ends of the codec: the same bytes come out, and few go over the wire."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES
from services.node_agent.page_codec.hello import ALL, Technique
from shared.page_stream.bodies import LaneRole
from tests.support.disk_stream import FLAGS, NOISE, Ends, block, payload_sizes, write


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
