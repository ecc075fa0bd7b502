from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.lanes.core.rate import MIN_BURST_BYTES, TokenBucket

RATE = 1_000_000.0


@given(
    st.lists(st.tuples(st.integers(1, 300_000), st.floats(0, 0.5)), min_size=1, max_size=60),
    st.floats(50_000, 10_000_000),
)
def test_no_more_than_the_rate(takes: list[tuple[int, float]], rate: float) -> None:
    """Whoever waits as told never exceeds rate times time by more than one burst and one frame."""
    bucket = TokenBucket(rate, now_s=0.0)
    now_s, taken, largest = 0.0, 0, 0
    for size, idle_s in takes:
        now_s += idle_s
        now_s += bucket.wait_s(now_s)
        bucket.consume(size, now_s)
        taken += size
        largest = max(largest, size)
        burst = max(MIN_BURST_BYTES, rate * 0.1)
        assert taken <= rate * now_s + burst + largest + 1


def test_the_whole_rate_is_used() -> None:
    """A taker that always has something gets the whole rate."""
    bucket = TokenBucket(RATE, now_s=0.0)
    now_s, taken = 0.0, 0
    while now_s < 10:
        now_s += bucket.wait_s(now_s)
        bucket.consume(65_536, now_s)
        taken += 65_536
    assert taken == pytest.approx(10 * RATE, rel=0.02)


def test_a_change_counts_at_once() -> None:
    """A debt in bytes is paid at the new rate."""
    bucket = TokenBucket(RATE, now_s=0.0)
    bucket.consume(1_000_000, 0.0)
    assert bucket.wait_s(0.0) == pytest.approx(1.0)
    bucket.set_rate(10 * RATE, 0.5)
    assert bucket.wait_s(0.5) == pytest.approx(0.05)
    bucket.set_rate(None, 0.5)
    assert bucket.wait_s(0.5) == 0.0


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_is_positive(rate: float) -> None:
    """A cap of nothing would be a lane that stands still for ever."""
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(rate, now_s=0.0)
