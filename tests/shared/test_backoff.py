"""How long to wait before trying again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.backoff import Backoff


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded_both_ways(failures: int, chance: float) -> None:
    """Never longer than the longest, never shorter than half of the first."""
    backoff = Backoff(min_s=0.2, max_s=10.0, jitter=0.5)
    assert 0.1 <= backoff.delay_s(failures, chance) <= 10.0


def test_backoff_doubles() -> None:
    """Until the bound."""
    backoff = Backoff(min_s=1.0, max_s=5.0, jitter=0.5)
    assert [backoff.delay_s(failures, 0.0) for failures in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
