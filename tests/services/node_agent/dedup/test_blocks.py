"""Files as blocks: found by content, read back, and never believed when they changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from blake3 import blake3

from services.node_agent.dedup.blocks import read_piece, scan
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentIndex
from tests.support.block_contents import KEY, block


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
