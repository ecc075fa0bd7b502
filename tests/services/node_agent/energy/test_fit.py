"""From rounds of work to coefficients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.energy.fit import NotFitted, Round, fit


@given(st.floats(1e-9, 1e-4), st.floats(0.1, 500), st.floats(0, 300))
def test_known_coefficients_are_found(per_byte: float, per_s: float, idle: float) -> None:
    """Rounds that follow the form exactly give it back, whatever an idle host uses."""
    rounds = [
        Round(moved, seconds, per_byte * moved + (per_s + idle) * seconds)
        for moved, seconds in ((10**9, 20.0), (5 * 10**8, 21.0), (2 * 10**8, 19.0))
    ]
    found = fit(rounds, idle)
    assert found.joules_per_byte == pytest.approx(per_byte, rel=1e-3, abs=1e-12)
    assert found.joules_per_s == pytest.approx(per_s, rel=1e-3)
    assert found.worst_error < 1e-3


def test_neither_is_below_nothing() -> None:
    """Where the best fit has one below 0, the other alone is fitted."""
    fewer_with_bytes = [Round(10**9, 10, 100.0), Round(10**8, 10, 200.0)]
    found = fit(fewer_with_bytes, 0.0)
    assert found.joules_per_byte == 0.0
    assert found.joules_per_s == pytest.approx(15.0)
    less_with_time = [Round(10**9, 10, 100.0), Round(10**8, 10, 1.0)]
    found = fit(less_with_time, 0.0)
    assert found.joules_per_s == 0.0
    assert found.joules_per_byte > 0


@pytest.mark.parametrize(
    ("rounds", "word"),
    [
        ([Round(10**9, 10, 100.0)], "two rounds"),
        ([Round(10**9, 10, 100.0), Round(2 * 10**9, 20, 200.0)], "the same rate"),
        ([Round(10**9, 10, 0.0), Round(10**8, 10, 0.0)], "no more than an idle host"),
    ],
)
def test_rounds_that_do_not_tell(rounds: list[Round], word: str) -> None:
    """Said in words, and no figure is made up."""
    with pytest.raises(NotFitted, match=word):
        fit(rounds, 0.0)
