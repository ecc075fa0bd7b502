"""Which contents were sent, by id; random ids against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.page_codec.content_table import (
    MAX_NUMBER,
    UNKNOWN,
    ContentTable,
    Ids,
    Origin,
    code_of,
    content_ids,
)


def _ids(values: list[int]) -> Ids:
    # Few distinct low halves, so that most ids meet others on their way.
    return np.array([(value % 7, value) for value in values], dtype=np.uint64).reshape(-1, 2)


@given(st.lists(st.lists(st.integers(0, 300), max_size=80), max_size=12))
def test_numbers_as_a_dict_would(batches: list[list[int]]) -> None:
    """The first time a content is new and gets the next number; every later time it is known by that number."""
    table = ContentTable(max_contents=10_000)
    known: dict[int, int] = {}
    for batch in batches:
        first = len(known)
        codes, fresh = table.number(_ids(batch), Origin.DISK, first)
        for value, code, is_fresh in zip(batch, codes.tolist(), fresh.tolist(), strict=True):
            assert is_fresh == (value not in known)
            assert code == known.setdefault(value, code_of(Origin.DISK, len(known)))
        assert len(table) == len(known)


def test_stays_within_its_bound_and_keeps_what_is_used() -> None:
    """Old contents are forgotten, those that are asked for are not, and no wrong code is ever given."""
    table = ContentTable(max_contents=2048)
    hot = _ids([0])
    for start in range(0, 40_000, 100):
        table.number(_ids(list(range(start, start + 100))), Origin.MEMORY, start)
        assert table.find(hot).tolist() == [0]
        assert len(table) <= 2 * 2048
    assert table.find(_ids([39_999])).tolist() == [39_999]
    assert table.find(_ids([500])).tolist() == [UNKNOWN]
    assert table.memory_bytes <= 2048 * 128


def test_a_batch_larger_than_the_table_is_taken() -> None:
    """The last of it are known."""
    table = ContentTable(max_contents=1024)
    codes, fresh = table.number(_ids(list(range(5000))), Origin.MEMORY, 0)
    assert fresh.all()
    assert codes.tolist() == list(range(5000))
    assert table.find(_ids([4999])).tolist() == [4999]


def test_put_keeps_the_first_code() -> None:
    """What the recipient had is known under its own numbers, whatever comes later."""
    table = ContentTable(max_contents=1024)
    table.put(_ids([1, 2, 1]), np.array([10, 11, 12], dtype=np.uint32))
    table.put(_ids([1, 3]), np.array([20, 21], dtype=np.uint32))
    assert table.find(_ids([1, 2, 3, 4])).tolist() == [10, 11, 21, UNKNOWN]


def test_ids_are_of_contents() -> None:
    """Equal contents have equal ids, others do not."""
    ids = content_ids([bytes(4096), b"x" * 4096, memoryview(bytes(4096))])
    assert ids.shape == (3, 2)
    assert (ids[0] == ids[2]).all()
    assert (ids[0] != ids[1]).any()
    assert content_ids([]).shape == (0, 2)


def test_numbers_end() -> None:
    """A number that does not fit is an error, not another origin's content."""
    with pytest.raises(OverflowError):
        code_of(Origin.MEMORY, MAX_NUMBER + 1)
