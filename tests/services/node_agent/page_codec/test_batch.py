"""Batches: what is packed comes out, whatever the levels; damaged ones are refused before they cost memory."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from services.node_agent.page_codec.batch import MAX_BATCH_BYTES, BatchPacker, BatchUnpacker, Column
from services.node_agent.page_codec.codec import CodecError

columns = st.lists(st.builds(Column, st.binary(max_size=500), st.booleans()), max_size=8)


@given(st.lists(st.tuples(columns, st.sampled_from([0, 1, 3, -5])), max_size=12))
def test_roundtrip_over_changes_of_level(batches: list[tuple[list[Column], int]]) -> None:
    """Each batch comes out as it went in; the reader need not know the levels."""
    packer, unpacker = BatchPacker(), BatchUnpacker()
    for batch, level in batches:
        packer.level = level
        assert [bytes(column) for column in unpacker.unpack(packer.pack(batch))] == [column.data for column in batch]


def test_what_was_in_an_earlier_batch_is_nearly_free() -> None:
    """The window reaches back over batches."""
    data = random.Random(1).randbytes(100_000)  # noqa: S311  # the same bytes in every run
    packer = BatchPacker()
    first, second = (len(packer.pack([Column(data)])) for _ in range(2))
    assert first > 100_000
    assert second < 100


def test_never_much_larger_than_raw() -> None:
    """Data that does not compress costs a few bytes more."""
    data = random.Random(2).randbytes(240_000)  # noqa: S311  # the same bytes in every run
    for level in (-5, 1, 6):
        assert len(BatchPacker(level=level).pack([Column(data), Column(b""), Column(data[:9])])) < 240_009 + 100


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\3",
        b"\3\0\1",
        b"\3\7\0",
        b"\3\0\x21" + bytes(4 * 33),
        b"\3\0\1\5\0\0\0abc",
        b"\3\0\1\5\0\0\x80abc",
        b"\3\1\1\5\0\0\0not zstd at all",
        b"\3\1\1" + MAX_BATCH_BYTES.to_bytes(4, "little") + b"x",
        b"\3\0\1" + (MAX_BATCH_BYTES + 1).to_bytes(4, "little") + b"x",
        b"\3\1\0surplus",
    ],
    ids=repr,
)
def test_damaged_batches_are_refused(payload: bytes) -> None:
    """Nothing is believed that does not fit."""
    with pytest.raises(CodecError):
        BatchUnpacker().unpack(payload)


def test_too_much_for_a_batch_is_the_callers_mistake() -> None:
    """More than the format carries."""
    with pytest.raises(ValueError, match="more than a batch carries"):
        BatchPacker().pack([Column(bytes(MAX_BATCH_BYTES + 1))])
