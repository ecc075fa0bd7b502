"""Blocks by number: read back, and never given out when they changed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from services.node_agent.dedup.blocks import Scanned, scan
from services.node_agent.dedup.known_blocks import KnownBlocks
from services.node_agent.page_codec.contents import CONTENT_BYTES, ContentMissingError
from tests.support.block_contents import block


def known(path: Path, found: Scanned) -> KnownBlocks:
    return KnownBlocks([path], np.zeros(len(found.blocks), dtype=np.int64), found.blocks, found.digests)


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
