"""Images that go as files: every byte arrives where it was, contents that are known go as references, damage is an
error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.node_agent.page_codec.batch import STORED_LEVEL, BatchPacker, Column
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentMissingError, Origin
from services.node_agent.page_codec.disk.format import Run
from services.node_agent.page_codec.disk.image_stream import (
    METHOD_BEGIN,
    METHOD_END,
    ImageBegins,
    ImageDecoder,
    ImageEncoder,
    ImageEnds,
    ImagePiece,
    stored,
)
from services.node_agent.page_codec.hello import ALL, Technique
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from tests.support.disk_stream import block

KEY = bytes(32)
NOISE = np.random.default_rng(3).bytes(MAX_CHUNK_BYTES)


class Ends:
    """Both ends of one port's images."""

    def __init__(self, folder: Path, *, techniques: frozenset[Technique] = ALL) -> None:
        self.port = PortEncoder(KEY, techniques=techniques)
        self.store = FileStore(folder, keep=4096)
        self.encoder = ImageEncoder(self.port)
        self.decoder = ImageDecoder(PortDecoder(lambda _: self.store))
        assert self.decoder.receive(self.encoder.greet()) is None
        self.sent_bytes = 0

    def send(self, image: bytes, *, piece: int = MAX_CHUNK_BYTES) -> bytes:
        """What the recipient makes of it."""
        file = bytearray(len(image))
        for at in range(0, len(image), piece):
            if payload := self.encoder.piece(at, image[at : at + piece]):
                self.sent_bytes += len(payload)
                got = self.decoder.receive(payload)
                assert isinstance(got, ImagePiece)
                file[got.at : got.at + len(got.data)] = got.data
        return bytes(file[: len(image)])


blocks = st.lists(st.sampled_from([*map(block, range(6)), bytes(CONTENT_BYTES)]), max_size=20).map(b"".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks, st.binary(max_size=100), st.sampled_from([ALL, ALL - {Technique.DEDUP}, ALL - {Technique.COMPRESS}]))
def test_every_byte_arrives(tmp_path: Path, whole: bytes, rest: bytes, techniques: frozenset[Technique]) -> None:
    """Also where the file ends within a block."""
    image = whole + rest
    assert Ends(tmp_path / "s", techniques=techniques).send(image, piece=4 * CONTENT_BYTES) == image


def test_the_same_contents_cross_once(tmp_path: Path) -> None:
    """A second image with them costs next to nothing, and zeros nothing."""
    ends = Ends(tmp_path)
    assert ends.send(NOISE) == NOISE
    first = ends.sent_bytes
    assert ends.send(NOISE) == NOISE
    assert ends.sent_bytes - first < first // 100
    assert ends.encoder.piece(0, bytes(MAX_CHUNK_BYTES)) == b""


def test_what_is_known_is_referred_to(tmp_path: Path) -> None:
    """A reference to what has still to come is retried with the same payload."""
    ends = Ends(tmp_path)
    ends.port.contents.learn(Origin.MEMORY, ends.port.contents.ids(block(1)))
    payload = ends.encoder.piece(0, block(1) + block(2))
    with pytest.raises(ContentMissingError):
        ends.decoder.receive(payload)
    ends.store.append(Origin.MEMORY, np.frombuffer(block(1), dtype=np.uint8).reshape(1, -1))
    got = ends.decoder.receive(payload)
    assert isinstance(got, ImagePiece)
    assert (got.at, bytes(got.data)) == (0, block(1) + block(2))


def test_begin_and_end(tmp_path: Path) -> None:
    """They say which disk, how large, and its digest."""
    ends = Ends(tmp_path)
    assert ends.decoder.receive(ends.encoder.begin("sda", 5)) == ImageBegins("sda", 5)
    assert ends.decoder.receive(ends.encoder.end(bytes(range(32)))) == ImageEnds(bytes(range(32)))
    assert stored("sda")[1:] == b"sda"


def test_a_piece_begins_on_a_blocks_border() -> None:
    """And is a chunk at most."""
    encoder = ImageEncoder(PortEncoder(KEY))
    for at, size in ((1, CONTENT_BYTES), (0, MAX_CHUNK_BYTES + 1)):
        with pytest.raises(ValueError, match="chunk"):
            encoder.piece(at, bytes(size))


def packed(*columns: bytes) -> bytes:
    """A batch."""
    return BatchPacker(level=STORED_LEVEL).pack([Column(column) for column in columns])


AT, FULL, ZERO, REFERENCE = bytes(8), bytes([Run.FULL]), bytes([Run.ZERO]), bytes([Run.REFERENCE])


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes([99]),
        bytes([METHOD_BEGIN]) + bytes(8),
        bytes([METHOD_BEGIN]) + bytes(8) + b"../x",
        bytes([METHOD_BEGIN]) + bytes([255] * 8) + b"sda",
        bytes([METHOD_END]) + bytes(31),
        packed(AT, FULL),
        packed(AT, b"", b"", b"", b""),
        packed(AT[:7], ZERO, b"", b"", b""),
        packed(AT, FULL, b"", b"", block(1)),
        packed(AT, FULL, b"", bytes(4), block(1)[:-1]),
        packed(AT, ZERO, b"", bytes(4), block(1)),
        packed(AT, bytes([Run.PLAIN]), b"", b"", b""),
        packed(AT, REFERENCE, b"", b"", b""),
        packed(AT, REFERENCE, (3 << 30).to_bytes(4, "little"), b"", b""),
        packed(AT, ZERO * 65, b"", b"", b""),
        packed((1).to_bytes(8, "little"), ZERO, b"", b"", b""),
        packed(bytes([0] * 7 + [255]), ZERO, b"", b"", b""),
    ],
)
def test_damage_is_an_error(tmp_path: Path, payload: bytes) -> None:
    """Whatever it is."""
    with pytest.raises(CodecError):
        Ends(tmp_path).decoder.receive(payload)
