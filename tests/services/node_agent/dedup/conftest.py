"""A disk image as a file, for the tests of its blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.page_codec.contents import CONTENT_BYTES
from tests.support.block_contents import block


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse file: blocks 1 2 1, a hole of 16 MiB, zeros, block 3, and half a block."""
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.write(block(1) + block(2) + block(1))
        file.seek(16 << 20)
        file.write(bytes(CONTENT_BYTES) + block(3) + b"half")
    return path
