"""Bounds by independent samples hold the true optimum, and a larger sample brings them together."""

from __future__ import annotations

import numpy as np

from services.broker.placement import saa
from services.broker.placement.l_shaped import evaluate, search
from services.broker.placement.model import NEUTRAL, columns_of
from tests.support.placement_samples import instance, scenarios

GIVEN = instance(np.random.default_rng(2), classes=1, horizon=2)
COLUMNS = columns_of(GIVEN)


def sampler(seed: int) -> saa.Sampler:
    return lambda count, stream: scenarios(np.random.default_rng([seed, stream]), GIVEN, count)


def test_the_bounds_hold_the_optimum_of_a_very_large_sample() -> None:
    """Each of them nineteen times in twenty; here at least eight in ten."""
    truth = search(COLUMNS, sampler(9)(20_000, 77)).objective
    low = high = 0
    for seed in range(10):
        found = search(COLUMNS, sampler(seed)(50, 0))
        bounds = saa.bounds(COLUMNS, sampler(seed), found.values, 50, NEUTRAL, known=(found.bound,))
        low += bounds.low <= truth
        high += bounds.high >= truth
    assert low >= 8
    assert high >= 8


def test_a_sample_that_is_large_enough() -> None:
    """Its bounds are within two per cent."""
    found, futures, bounds = saa.solve(COLUMNS, sampler(9), 50, NEUTRAL, most=3200)
    assert bounds.gap <= saa.GAP
    assert evaluate(COLUMNS, futures, found.values)[0] == found.objective


def test_it_is_doubled_until_it_is_good_enough_or_may_not() -> None:
    """Not beyond what was allowed, nor after the time."""
    assert saa.solve(COLUMNS, sampler(9), 4, NEUTRAL, most=8)[2].size == 8
    _, _, early = saa.solve(COLUMNS, sampler(9), 4, NEUTRAL, most=4000, elapsed_s=lambda: 50.0, time_limit_s=10.0)
    assert (early.size, early.batches) == (4, 2)
