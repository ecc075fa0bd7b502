"""The check of words."""

from __future__ import annotations

import pytest

from tests.checks.words import Finder

FINDER = Finder({"nought": "zero", "left overs": "what remains", "overs": "more"}, names=("left_overs",))


@pytest.mark.parametrize("text", ["Nought.", "a nought_count", "class NoughtCount:", "(nought)"])
def test_a_word_is_found_in_prose_and_in_names(text: str) -> None:
    """Capitals, underscores and punctuation do not hide it."""
    assert list(FINDER.find(text)) == [(1, "nought", "zero")]


def test_a_part_of_another_word_is_not_found() -> None:
    """`noughts` is another word than `nought`."""
    assert list(FINDER.find("noughts, not_noughty")) == []


@pytest.mark.parametrize("text", ["left overs", "left-overs", "class LeftOvers", "_left_overs_of"])
def test_several_words_are_found_however_they_are_joined(text: str) -> None:
    """The longest rule that fits is named."""
    assert list(FINDER.find(text)) == [(1, "left overs", "what remains")]


def test_a_kept_name_is_not_found() -> None:
    """Only the whole name is exempt, not the other words of its line."""
    assert list(FINDER.find("x.left_overs\nleft_overs of nought")) == [(2, "nought", "zero")]
