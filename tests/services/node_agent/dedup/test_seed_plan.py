"""Everything once, and then only what has come to rest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.dedup.seed_plan import SeedPlan, WordSet
from services.node_agent.page_codec.digests import Digests


def digests(values: list[int]) -> Digests:
    return np.array([(value, 7) for value in values], dtype=np.uint64).reshape(-1, 2)


def one_pass(plan: SeedPlan, *pieces: list[int]) -> list[int]:
    """What is taken of the pieces."""
    taken = []
    for piece in pieces:
        found = digests(piece)
        rows = plan.choose(found)
        plan.stored(found[rows])
        taken += [piece[row] for row in rows.tolist()]
    plan.end_pass()
    return taken


def test_the_first_pass_takes_each_content_once() -> None:
    """In the order in which they lie, whether they come again in the same piece or in another one."""
    assert one_pass(SeedPlan(), [5, 3, 5], [3, 9]) == [5, 3, 9]


def test_a_later_pass_takes_what_two_passes_found() -> None:
    """A content that is new may be gone when the window opens; one that stays is taken."""
    plan = SeedPlan()
    one_pass(plan, [1, 2])
    assert one_pass(plan, [1, 30]) == []
    assert one_pass(plan, [30, 31]) == [30]
    assert one_pass(plan, [30, 31]) == [31]


def test_what_keeps_changing_is_never_taken() -> None:
    """However often the VM is looked at, a hot page costs nothing more."""
    plan = SeedPlan()
    one_pass(plan, [0])
    assert [one_pass(plan, [number]) for number in range(1, 50)] == [[]] * 49


def test_what_could_not_be_sent_is_tried_in_the_next_passes() -> None:
    """Chosen is not taken."""
    plan = SeedPlan()
    assert plan.choose(digests([4])).tolist() == [0]
    plan.end_pass()
    assert one_pass(plan, [4]) == []
    assert one_pass(plan, [4]) == [4]


@given(st.lists(st.lists(st.integers(0, 40), max_size=10), max_size=6), st.integers(0, 3))
def test_a_word_set_is_a_set(adding: list[list[int]], recent: int) -> None:
    """Also where its recent words have moved into the big array."""
    words, model = WordSet(), set[int]()
    probe = np.arange(41, dtype=np.uint64)
    for number, values in enumerate(adding):
        words.add(np.array(values, dtype=np.uint64))
        model.update(values)
        if number % (recent + 1) == 0:
            words = WordSet(np.array(sorted(model), dtype=np.uint64))
        assert words.has(probe).tolist() == [value in model for value in probe.tolist()]
        assert len(words) == len(model)


def test_many_words_move_into_the_big_array() -> None:
    """And none is lost on the way."""
    words = WordSet()
    for start in range(0, 200_000, 50_000):
        words.add(np.arange(start, start + 50_000, dtype=np.uint64))
    assert len(words) == 200_000
    assert words.has(np.array([0, 199_999, 200_000], dtype=np.uint64)).tolist() == [True, True, False]
