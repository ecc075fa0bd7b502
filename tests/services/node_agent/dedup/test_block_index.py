"""The index of a file's digests: kept until the file changes, removed when nobody uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.dedup import block_index
from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.page_codec.contents import CONTENT_BYTES
from tests.support.block_contents import block


def test_an_index_is_kept_until_the_file_changes(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look-up reads no block; a changed file, a damaged index and `forget` mean reading again."""
    index = BlockIndex(tmp_path / "index")
    assert index.look_up(image, limit=100).blocks.tolist() == [0, 1, 4097]
    (record,) = (tmp_path / "index").iterdir()
    monkeypatch.setattr(block_index, "scan", lambda *_, **__: pytest.fail("the file is read again"))
    assert index.look_up(image, limit=100).blocks.tolist() == [0, 1, 4097]
    monkeypatch.undo()
    for damaged in (b"", record.read_bytes()[:-1], record.read_bytes()[:-1] + b"?", b"\0" * 56):
        record.write_bytes(damaged)
        assert index.look_up(image, limit=100).blocks.tolist() == [0, 1, 4097]
    index.forget(image)
    assert not record.exists()
    index.look_up(image, limit=100)
    with open(image, "ab") as file:
        file.write(bytes(CONTENT_BYTES - 4) + block(9))
    assert index.look_up(image, limit=100).blocks.tolist() == [0, 1, 4097, 4098, 4099]


def test_an_index_that_nobody_uses_goes(image: Path, tmp_path: Path) -> None:
    """By the time of its last use."""
    index = BlockIndex(tmp_path / "index")
    index.look_up(image, limit=100)
    (record,) = (tmp_path / "index").iterdir()
    index.sweep(record.stat().st_mtime - 1)
    assert record.exists()
    index.sweep(record.stat().st_mtime + 1)
    assert not record.exists()
