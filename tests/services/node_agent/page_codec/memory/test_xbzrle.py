"""XBZRLE deltas: QEMU's rules hold, and applying one gives the new page."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from services.node_agent.page_codec.memory import xbzrle
from tests.support.xbzrle_reference import apply_delta

PAGE = 4096
changes = st.lists(st.tuples(st.integers(0, PAGE - 1), st.integers(1, 300), st.integers(0, 255)), max_size=12)


def page(seed: int) -> xbzrle.Pages:
    """A page of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, PAGE, dtype=np.uint8)


def deltas(sizes: np.ndarray, data: bytes) -> list[bytes]:
    """The deltas one by one; empty for none."""
    ends = np.cumsum(np.maximum(sizes, 0)).tolist()
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(changes, min_size=1, max_size=6))
def test_a_delta_turns_the_old_page_into_the_new_one(edits: list[list[tuple[int, int, int]]]) -> None:
    """For every page of a batch; an unchanged page has no delta, one that would be too long has none either."""
    old = np.stack([page(number) for number in range(len(edits))])
    new = old.copy()
    for row, edit in enumerate(edits):
        for at, length, value in edit:
            new[row, at : at + length] = value
    sizes, data = xbzrle.encode(old, new, limit_bytes=1500)
    for before, after, size, delta in zip(old, new, sizes.tolist(), deltas(sizes, data), strict=True):
        assert size <= 1500
        if size == 0:
            assert np.array_equal(before, after)
        elif size > 0:
            made = before.copy()
            apply_delta(delta, made)
            assert np.array_equal(made, after)
    assert len(data) == int(np.maximum(sizes, 0).sum())


def test_the_whole_page_and_its_ends_can_change() -> None:
    """First byte, last byte, all bytes: run lengths of one and of two bytes."""
    old = np.zeros((3, PAGE), dtype=np.uint8)
    new = old.copy()
    new[0, 0] = new[1, -1] = 1
    new[2] = 7
    sizes, data = xbzrle.encode(old, new, limit_bytes=PAGE + 8)
    assert deltas(sizes, data) == [b"\0\x01\x01", b"\xff\x1f\x01\x01", b"\0\x80\x20" + b"\7" * PAGE]


def test_qemus_own_example() -> None:
    """From QEMU's documentation: 1000 bytes stay, 3 change; what follows the last change is not there."""
    old = np.zeros((1, PAGE), dtype=np.uint8)
    new = old.copy()
    new[0, 1001:1004] = (1, 2, 3)
    _, data = xbzrle.encode(old, new, limit_bytes=PAGE)
    assert data == bytes([0xE9, 0x07, 0x03, 1, 2, 3])


@pytest.mark.parametrize(
    "delta", [b"\0", b"\0\0", b"\0\5abc", b"\x80\x80\1a", b"\xff\x1f\2ab", b"\0\1a\0\1b", b"\1"], ids=repr
)
def test_what_qemu_refuses_is_refused(delta: bytes) -> None:
    """Empty or cut runs, lengths of three bytes, runs beyond the page."""
    with pytest.raises(ValueError, match="XBZRLE"):
        apply_delta(delta, page(1))
