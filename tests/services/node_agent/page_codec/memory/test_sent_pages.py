"""What is remembered of sent pages: copies are bounded, and go to the pages that are sent again."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from services.node_agent.page_codec.copy_file import CopyFile
from services.node_agent.page_codec.memory.sent_pages import ZERO, SentPages


def never(error: OSError) -> None:
    """No test here breaks the file."""
    raise error


@pytest.fixture
def file() -> Iterator[CopyFile]:
    """Where copies lie."""
    file = CopyFile.in_memory(never)
    yield file
    file.close()


def send(sent: SentPages, pages: list[int], value: int, *, again: bool) -> None:
    """These pages went with this content."""
    contents = np.full((len(pages), 4096), value, dtype=np.uint8)
    codes = np.full(len(pages), value, dtype=np.uint32)
    sent.remember(np.array(pages), codes, contents, again=np.full(len(pages), again))


def copied(sent: SentPages, pages: int) -> list[int]:
    """Pages that have a copy."""
    return np.flatnonzero(sent.has_copy(np.arange(pages))).tolist()


def values(sent: SentPages, pages: list[int]) -> list[int]:
    """What the copies of these pages are filled with."""
    found = sent.copies(np.array(pages))
    assert found is not None
    return [int(value) for value in found[:, 100]]


def test_first_pages_take_free_slots_only(file: CopyFile) -> None:
    """A first round does not push out what is there."""
    sent = SentPages(10, copies=3, file=file)
    send(sent, [0, 1, 2, 3, 4], 7, again=False)
    assert copied(sent, 10) == [0, 1, 2]


def test_pages_that_are_sent_again_take_slots_of_others(file: CopyFile) -> None:
    """So the hot pages end up with copies."""
    sent = SentPages(10, copies=3, file=file)
    send(sent, list(range(10)), 7, again=False)
    send(sent, [8, 9], 8, again=True)
    assert copied(sent, 10) == [2, 8, 9]
    assert values(sent, [8, 2]) == [8, 7]


def test_hot_pages_do_not_push_each_other_out(file: CopyFile) -> None:
    """As long as there are slots of pages that were sent once, those are taken."""
    sent = SentPages(40, copies=20, file=file)
    send(sent, list(range(40)), 1, again=False)
    hot = list(range(10, 28))
    for value in (2, 3):
        for page in hot:
            send(sent, [page], value, again=True)
    assert set(hot) <= set(copied(sent, 40))


def test_a_page_that_became_zero_has_no_copy(file: CopyFile) -> None:
    """Its slot is free to be taken."""
    sent = SentPages(4, copies=4, file=file)
    send(sent, [0, 1], 7, again=False)
    sent.forget(np.array([0, 3]), ZERO)
    assert copied(sent, 4) == [1]
    assert sent.codes(np.array([0, 1])).tolist() == [ZERO, 7]


@given(st.integers(0, 5), st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True), max_size=20))
def test_a_copy_is_always_the_last_content(copies: int, rounds: list[list[int]]) -> None:
    """Whoever lost its slot to whom, a page's copy is what was sent for it last, and there are never too many."""
    sent = SentPages(12, copies=copies, file=CopyFile.in_memory(never))
    last: dict[int, int] = {}
    for value, pages in enumerate(rounds, start=1):
        again = np.array([page in last for page in pages])
        contents = np.full((len(pages), 4096), value, dtype=np.uint8)
        sent.remember(np.array(pages), np.full(len(pages), value, dtype=np.uint32), contents, again=again)
        last |= dict.fromkeys(pages, value)
        there = copied(sent, 12)
        assert len(there) <= copies
        if there:
            assert values(sent, there) == [last[page] for page in there]


def test_without_a_file_there_are_no_copies_any_more(file: CopyFile) -> None:
    """A full disk costs deltas, not the port."""
    sent = SentPages(4, copies=4, file=file)
    send(sent, [0, 1], 7, again=False)
    file.close()
    assert copied(sent, 4) == []
    assert sent.copies(np.array([0])) is None
    send(sent, [0, 2], 8, again=True)
    assert sent.codes(np.array([0, 1, 2])).tolist() == [8, 7, 8]
