"""Files as blocks: found by content, read back, and never believed when they changed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from services.node_agent.dedup import blocks as block_files
from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.dedup.blocks import Scanned, read_piece, scan
from services.node_agent.dedup.known_blocks import KnownBlocks
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentIndex, ContentMissingError

KEY = bytes(range(32))


def block(number: int) -> bytes:
    return number.to_bytes(4, "big") * (CONTENT_BYTES // 4)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse file: blocks 1 2 1, a hole of 16 MiB, zeros, block 3, and half a block."""
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.write(block(1) + block(2) + block(1))
        file.seek(16 << 20)
        file.write(bytes(CONTENT_BYTES) + block(3) + b"half")
    return path


def known(path: Path, found: Scanned) -> KnownBlocks:
    return KnownBlocks([path], np.zeros(len(found.blocks), dtype=np.int64), found.blocks, found.digests)


def test_pieces_are_the_whole_blocks_of_the_file(image: Path) -> None:
    """In order, without holes, at most as long as asked for; what is no whole block is left out."""
    for size in (CONTENT_BYTES, 2 * CONTENT_BYTES, 1 << 20):
        at, found = 0, b""
        while True:
            at, data = read_piece(image, at, size)
            if not data:
                break
            assert len(data) <= size
            found += data
        assert found.replace(bytes(CONTENT_BYTES), b"") == block(1) + block(2) + block(1) + block(3)
    assert read_piece(image, 1 << 30, 1 << 20)[1] == b""


def test_a_scan_finds_each_content_once(image: Path) -> None:
    """Zeros, holes and what comes again are left out; ids are those that the encoders use."""
    found = scan(image, limit=100)
    assert found.blocks.tolist() == [0, 1, 4097]
    assert found.digests.tobytes() == b"".join(blake3(block(at)).digest(16) for at in (1, 2, 3))
    some, index = found.only(np.array([True, False, True])), ContentIndex(KEY)
    assert index.ids_of(some.whole_digests()) == index.ids(block(1) + block(3))
    assert scan(image, limit=2).blocks.tolist() == [0, 1]


def test_contents_are_read_back(image: Path) -> None:
    """In any order, by number."""
    contents = known(image, scan(image, limit=100))
    try:
        pages = contents.fetch(np.array([2, 0, 1, 2], dtype=np.uint32))
        assert [bytes(page) for page in pages] == [block(3), block(1), block(2), block(3)]
        assert contents.fetch(np.array([], dtype=np.uint32)).shape == (0, CONTENT_BYTES)
        with pytest.raises(ContentMissingError):
            contents.fetch(np.array([3], dtype=np.uint32))
        assert contents.path_of(2) == image
    finally:
        contents.close()


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_what_changed_is_missing(image: Path, damage: str) -> None:
    """A block that is not what was indexed is never given out."""
    contents = known(image, scan(image, limit=100))
    if damage == "cut":
        os.truncate(image, CONTENT_BYTES + 7)
    else:
        with open(image, "r+b") as file:
            file.seek(CONTENT_BYTES + 9)
            file.write(b"!")
    try:
        assert bytes(contents.fetch(np.array([0], dtype=np.uint32))[0]) == block(1)
        with pytest.raises(ContentMissingError) as caught:
            contents.fetch(np.array([0, 1], dtype=np.uint32))
        assert caught.value.number in {0, 1}
    finally:
        contents.close()


def test_an_index_is_kept_until_the_file_changes(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look-up reads no block; a changed file, a damaged index and `forget` mean reading again."""
    index = BlockIndex(tmp_path / "index")
    assert index.look_up(image, limit=100).blocks.tolist() == [0, 1, 4097]
    (kept,) = (tmp_path / "index").iterdir()
    monkeypatch.setattr(block_files, "scan", lambda *_, **__: pytest.fail("the file is read again"))
    assert index.look_up(image, limit=100).blocks.tolist() == [0, 1, 4097]
    monkeypatch.undo()
    for damaged in (b"", kept.read_bytes()[:-1], kept.read_bytes()[:-1] + b"?", b"\0" * 56):
        kept.write_bytes(damaged)
        assert index.look_up(image, limit=100).blocks.tolist() == [0, 1, 4097]
    index.forget(image)
    assert not kept.exists()
    index.look_up(image, limit=100)
    with open(image, "ab") as file:
        file.write(bytes(CONTENT_BYTES - 4) + block(9))
    assert index.look_up(image, limit=100).blocks.tolist() == [0, 1, 4097, 4098, 4099]


def test_an_index_that_nobody_uses_goes(image: Path, tmp_path: Path) -> None:
    """By the time of its last use."""
    index = BlockIndex(tmp_path / "index")
    index.look_up(image, limit=100)
    (kept,) = (tmp_path / "index").iterdir()
    index.sweep(kept.stat().st_mtime - 1)
    assert kept.exists()
    index.sweep(kept.stat().st_mtime + 1)
    assert not kept.exists()
