"""Contents that leave before the disk streams: those refer to them, whatever comes first, and damage is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.node_agent.page_codec.batch import STORED_LEVEL, BatchPacker, Column
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentMissingError, Origin
from services.node_agent.page_codec.disk.early_stream import EarlyDecoder, EarlyEncoder
from services.node_agent.page_codec.hello import ALL, Technique
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from tests.support.disk_stream import FLAGS, KEY, Ends, block, write


class EarlyEnds(Ends):
    """Both ends of one port's disk stream, and of what goes before it."""

    def __init__(self, folder: Path, *, techniques: frozenset[Technique] = ALL) -> None:
        super().__init__(folder, techniques=techniques)
        self.early = EarlyEncoder(self.port)
        self.taker = EarlyDecoder(self.decoder._port)
        self.taker.receive(self.early.greet())

    def send_early(self, data: bytes) -> int:
        """How many bytes it took."""
        payload = self.early.encode(data)
        if payload:
            self.taker.receive(payload)
        return len(payload)


blocks = st.lists(st.sampled_from([*map(block, range(6)), bytes(CONTENT_BYTES)]), max_size=12).map(b"".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(blocks, max_size=4), st.lists(blocks, max_size=4))
def test_what_went_ahead_is_referred_to(tmp_path: Path, pieces: list[bytes], disk: list[bytes]) -> None:
    """Each content crosses once, and the disk is what it was."""
    ends = EarlyEnds(tmp_path / "store")
    for piece in pieces:
        ends.send_early(piece)
    connection = FLAGS + b"".join(write(at << 20, data) for at, data in enumerate(disk))
    assert ends.send(connection) == connection
    ahead, later = (
        {data[at : at + CONTENT_BYTES] for data in datas for at in range(0, len(data), CONTENT_BYTES)}
        - {bytes(CONTENT_BYTES)}
        for datas in (pieces, disk)
    )
    assert ends.early.sent == ends.taker.stored == len(ahead)
    assert ends.encoder.raw_bytes_by_kind["full"] == CONTENT_BYTES * len(later - ahead)


def test_a_reference_waits_for_what_went_ahead(tmp_path: Path) -> None:
    """The two streams have an order each, not one together."""
    ends = EarlyEnds(tmp_path / "store")
    batch = ends.early.encode(block(1) + block(2))
    connection = FLAGS + write(0, block(3) + block(2))
    payloads = ends.encoder.encode(connection)
    assert ends.carry(payloads[:1]) == b""
    with pytest.raises(ContentMissingError):
        ends.decoder.decode(payloads[1])
    ends.taker.receive(batch)
    assert ends.carry(payloads[1:]) == connection


def test_zeros_and_what_is_known_do_not_go(tmp_path: Path) -> None:
    """Nothing is left to say then."""
    ends = EarlyEnds(tmp_path / "store")
    ends.port.contents.learn(Origin.KNOWN, ends.port.contents.ids(block(1)))
    assert ends.send_early(bytes(CONTENT_BYTES) + block(1)) == 0
    assert ends.send_early(block(1) + block(2)) > CONTENT_BYTES
    assert ends.send_early(block(2)) == 0


def test_it_takes_no_more_than_will_be_referred_to() -> None:
    """Half of what the recipient holds, and the disk streams have their own."""
    port = PortEncoder(KEY)
    early = EarlyEncoder(port)
    assert early.takes
    early.sent = port.hello.keep // 4
    assert not early.takes
    assert not EarlyEncoder(PortEncoder(KEY, techniques=ALL - {Technique.DEDUP})).takes


def test_compression_is_used_where_it_is_a_technique(tmp_path: Path) -> None:
    """Text shrinks; without the technique it does not."""
    text = b"".join(b"%07d\n" % at for at in range(CONTENT_BYTES // 8))
    assert EarlyEnds(tmp_path / "a").send_early(text) < CONTENT_BYTES // 2
    assert EarlyEnds(tmp_path / "b", techniques=ALL - {Technique.COMPRESS}).send_early(text) > CONTENT_BYTES


@pytest.mark.parametrize("size", [CONTENT_BYTES - 1, MAX_CHUNK_BYTES + CONTENT_BYTES])
def test_only_whole_contents_go(size: int) -> None:
    """Anything else is a mistake of the caller."""
    with pytest.raises(ValueError, match="whole contents"):
        EarlyEncoder(PortEncoder(KEY)).encode(bytes(size))


@pytest.mark.parametrize(
    "columns",
    [
        (b"\0\0\0\0",),
        (b"\0\0\0", block(1)),
        (b"\0\0\0\0", block(1)[1:]),
        (b"\0\0\0\0", b""),
        (b"\xff\xff\xff\xff", block(1)),
        (b"\0\0\0\0", block(1), b""),
    ],
    ids=["one column", "short number", "odd contents", "no contents", "far ahead", "three columns"],
)
def test_damage_is_an_error(tmp_path: Path, columns: tuple[bytes, ...]) -> None:
    """Nothing is stored."""
    with FileStore(tmp_path / "store", keep=1024) as store:
        decoder = EarlyDecoder(PortDecoder(lambda _: store))
        decoder.receive(EarlyEncoder(PortEncoder(KEY)).greet())
        with pytest.raises(CodecError):
            decoder.receive(BatchPacker().pack([Column(each) for each in columns]))
        assert (decoder.stored, store.count(Origin.DISK)) == (0, 0)


def test_a_number_is_taken_once(tmp_path: Path) -> None:
    """Two early streams, or one and a disk's, cannot claim the same."""
    ends = EarlyEnds(tmp_path / "store")
    ends.send_early(block(1))
    with pytest.raises(CodecError, match="came already"):
        ends.taker.receive(BatchPacker(level=STORED_LEVEL).pack([Column(bytes(4)), Column(block(2))]))
