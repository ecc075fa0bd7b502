"""The record of kept promises."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.broker.costs.promises import Kept, wilson

RECORDS = st.integers(0, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


def test_laplace() -> None:
    """A new provider counts one half; one broken promise of eight is not one in eight."""
    assert Kept().share == Fraction(1, 2)
    assert Kept(kept=7, total=8).share == Fraction(8, 10)


def test_more_kept_than_made_is_refused() -> None:
    """Such a record is none."""
    with pytest.raises(ValidationError, match="kept"):
        Kept(kept=2, total=1)


@given(RECORDS)
def test_interval_holds_the_share(record: tuple[int, int]) -> None:
    """The interval is inside 0 and 1 and holds the share that was seen."""
    kept, total = record
    low, high = wilson(kept, total)
    assert 0 <= low <= high <= 1
    if total:
        assert low - 1e-9 <= kept / total <= high + 1e-9


@given(st.integers(1, 200), st.integers(2, 50))
def test_interval_is_narrower_with_more_records(total: int, times: int) -> None:
    """The same share, seen more often."""
    kept = total // 2
    few, many = wilson(kept, total), wilson(kept * times, total * times)
    assert many[1] - many[0] < few[1] - few[0]


def test_known_interval() -> None:
    """Wilson's 90 % interval of 8 in 10, as published tables have it."""
    assert wilson(8, 10) == pytest.approx((0.5409, 0.9305), abs=2e-3)
    told = Kept(kept=8, total=10).record()
    assert (told.kept, told.total, told.share) == (8, 10, 0.75)
