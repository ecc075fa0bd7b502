"""The recipient's end of a disk stream: what it waits for, and what it refuses."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.node_agent.page_codec.batch import BatchPacker, Column
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentMissingError, Origin
from services.node_agent.page_codec.disk.decoder import DiskDecoder
from services.node_agent.page_codec.disk.encoder import DiskEncoder
from services.node_agent.page_codec.disk.format import MAX_OUT_BYTES
from services.node_agent.page_codec.disk.nbd_stream import NbdFacts
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from tests.support.disk_stream import FLAGS, KEY, Ends, block, payload_sizes, write


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


def test_no_batch_becomes_more_than_is_allowed(tmp_path: Path) -> None:
    """A request may be longer than a batch."""
    ends = Ends(tmp_path / "store")
    ends.send(FLAGS + write(0, block(1)))
    request = write(0, block(1) * (3 * MAX_OUT_BYTES // CONTENT_BYTES))
    chunks = [request[at : at + MAX_CHUNK_BYTES] for at in range(0, len(request), MAX_CHUNK_BYTES)]
    assert sum(payload_sizes(ends, *chunks)) == 4
