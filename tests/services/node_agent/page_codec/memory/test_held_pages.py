"""Which pages are hot, which of them wait, and when they go."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from services.node_agent.page_codec.memory.held_pages import HOT_AFTER, HeldPages

LIMIT = 1000


def numbers(*pages: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Pages by their number."""
    return np.array(pages, dtype=np.int64)


def put(held: HeldPages, pages: list[int], value: int = 1, *, size: int = 10) -> list[bool]:
    """Let pages filled with this value wait, each of which would take `size` bytes; which do."""
    contents = np.full((len(pages), 4096), value, dtype=np.uint8)
    return list(map(bool, held.store(numbers(*pages), contents, np.full(len(pages), size, dtype=np.int64))))


def test_a_page_is_hot_when_it_was_sent_again_often() -> None:
    """The first time does not count, and other pages do not either; nor does the count run over."""
    held = HeldPages(8)
    seen = [held.count_resent(numbers(3, 5) if turn % 2 else numbers(3)).tolist()[0] for turn in range(600)]
    assert seen == [False] * (HOT_AFTER) + [True] * (600 - HOT_AFTER)
    assert held.count_resent(numbers(4, 5)).tolist() == [False, True]


def test_what_waits_is_bounded_by_bytes() -> None:
    """As many as fit within the limit wait, and a place that is given up is free again."""
    held = HeldPages(8, limit_bytes=25)
    assert put(held, [1, 2, 3]) == [True, True, False]
    assert (len(held), held.held_bytes) == (2, 20)
    assert held.discard(numbers(2, 3, 4)) == 1
    assert put(held, [4, 5]) == [True, False]
    assert held.pages().tolist() == [1, 4]


def test_what_waits_is_bounded_by_pages() -> None:
    """However small the deltas are."""
    held = HeldPages(5000, limit_bytes=10**9)
    assert sum(put(held, list(range(5000)), size=1)) == 4096


def test_a_page_has_cooled_when_a_whole_round_went_by() -> None:
    """The round in which it came may just end; sections do not matter, only that page numbers begin again."""
    held = HeldPages(20, limit_bytes=LIMIT)
    held.observe_order(numbers(1, 9))
    put(held, [9])
    assert held.due().tolist() == []
    held.observe_order(numbers(2))
    held.observe_order(numbers(5, 12))
    assert held.due().tolist() == []
    held.observe_order(numbers(3, 4))
    assert held.due().tolist() == [9]


def test_a_page_alone_makes_a_round_each_time() -> None:
    """QEMU sends no page twice within a round."""
    held = HeldPages(20, limit_bytes=LIMIT)
    held.observe_order(numbers(7))
    put(held, [3])
    held.observe_order(numbers(7))
    held.observe_order(numbers(7))
    assert held.due().tolist() == [3]


def test_a_lower_limit_makes_the_rest_due() -> None:
    """What was let wait goes when there is less time for it."""
    held = HeldPages(8, limit_bytes=LIMIT)
    put(held, [1, 4, 2])
    held.limit_bytes = 20
    assert held.due().tolist() == [4]
    held.limit_bytes = 0
    assert held.due().tolist() == [1, 2, 4]


def test_a_page_that_goes_is_no_longer_hot() -> None:
    """It cooled; it must be sent again and again anew before it waits once more."""
    held = HeldPages(8, limit_bytes=LIMIT)
    for _ in range(5):
        held.count_resent(numbers(1))
    put(held, [1], 7)
    assert held.pop(numbers(1))[0, 100] == 7
    assert (len(held), held.held_bytes) == (0, 0)
    assert [held.count_resent(numbers(1)).tolist() for _ in range(2)] == [[False], [True]]


@given(
    st.integers(0, 60),
    st.lists(
        st.tuples(
            st.sampled_from(["put", "drop", "take"]), st.lists(st.integers(0, 9), unique=True), st.integers(1, 20)
        ),
        max_size=30,
    ),
)
def test_the_newest_content_waits(limit: int, steps: list[tuple[str, list[int], int]]) -> None:
    """Whatever came and went, what waits is what was put last, and never more than allowed."""
    held = HeldPages(10, limit_bytes=limit)
    waiting: dict[int, tuple[int, int]] = {}
    for value, (step, pages, size) in enumerate(steps, start=1):
        inside = sorted(set(pages) & set(waiting))
        match step:
            case "put":
                assert held.discard(numbers(*pages)) == len(inside)
                waiting = {page: each for page, each in waiting.items() if page not in pages}
                found = put(held, pages, value, size=size)
                waiting |= {page: (value, size) for page, waits in zip(pages, found, strict=True) if waits}
            case "drop":
                assert held.discard(numbers(*pages)) == len(inside)
                waiting = {page: each for page, each in waiting.items() if page not in pages}
            case _:
                assert held.pop(numbers(*inside))[:, 5].tolist() == [waiting.pop(page)[0] for page in inside]
        assert held.pages().tolist() == sorted(waiting)
        assert held.held_bytes == sum(size for _, size in waiting.values()) <= limit
