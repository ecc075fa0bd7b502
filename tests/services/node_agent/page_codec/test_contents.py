"""The index of contents: each content goes once, under numbers that both ends count alike."""

from __future__ import annotations

import os

import pytest

from services.node_agent.page_codec.contents import CONTENT_BYTES, UNKNOWN, ContentIndex, Origin

KEY = bytes(range(32))


def ids(*names: str) -> list[bytes]:
    """Ids of contents with these names."""
    return [name.encode().ljust(16) for name in names]


def test_a_content_goes_once_whatever_its_origin() -> None:
    """Numbers are dense per origin; the same content again, also within one call, is a reference."""
    index = ContentIndex(KEY)
    codes, fresh = index.place(Origin.DISK, ids("a", "b", "a"))
    assert (codes.tolist(), fresh.tolist()) == ([1 << 30, 1 << 30 | 1, 1 << 30], [True, True, False])
    codes, fresh = index.place(Origin.MEMORY, ids("b", "c"))
    assert (codes.tolist(), fresh.tolist()) == ([1 << 30 | 1, 0], [False, True])


def test_looking_gives_no_numbers() -> None:
    """`find` changes nothing."""
    index = ContentIndex(KEY)
    assert index.find(ids("a")).tolist() == [UNKNOWN]
    index.place(Origin.MEMORY, ids("a"))
    assert index.find(ids("a", "b")).tolist() == [0, UNKNOWN]


def test_what_the_recipient_may_have_dropped_goes_again() -> None:
    """Only the newest half of what it holds is referred to."""
    index = ContentIndex(KEY, keep=20)
    index.place(Origin.MEMORY, ids("first"))
    index.place(Origin.MEMORY, ids(*(f"other {number}" for number in range(10))))
    assert index.find(ids("first")).tolist() == [UNKNOWN]
    codes, fresh = index.place(Origin.MEMORY, ids("first"))
    assert (codes.tolist(), fresh.tolist()) == ([11], [True])


def test_the_index_is_bounded() -> None:
    """However much goes, no more is remembered than the recipient holds."""
    index = ContentIndex(KEY, keep=100)
    for _ in range(50):
        index.place(Origin.DISK, [os.urandom(16) for _ in range(10)])
    assert len(index) <= 100


def test_what_the_recipient_knew_before_stays_known() -> None:
    """Contents of a base image do not age."""
    index = ContentIndex(KEY, keep=20)
    index.learn(Origin.KNOWN, ids("base"))
    index.place(Origin.KNOWN, [])
    assert index.find(ids("base")).tolist() == [2 << 30]


def test_ids_depend_on_content_and_key() -> None:
    """Another port's ids say nothing."""
    data = bytes(CONTENT_BYTES) + b"x" * CONTENT_BYTES + bytes(CONTENT_BYTES)
    first, second, third = ContentIndex(KEY).ids(data)
    assert first == third != second
    assert first not in ContentIndex(KEY[::-1]).ids(data)


def test_a_short_key_is_refused() -> None:
    """A key is 32 bytes."""
    with pytest.raises(ValueError, match="32 needed"):
        ContentIndex(b"short")
