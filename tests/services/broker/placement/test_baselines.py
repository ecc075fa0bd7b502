"""Planning for the mean, for the most, and for nothing: none is better than the plan, and they are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from services.broker.placement.baselines import compare
from services.broker.placement.l_shaped import recourse_for, search
from services.broker.placement.model import NEUTRAL, columns_of
from tests.support.placement_samples import instance, scenarios


@pytest.mark.parametrize("seed", range(5))
def test_none_is_better(seed: int) -> None:
    """In the scenarios that the plan was made for."""
    random = np.random.default_rng(seed)
    given = instance(random, running=bool(seed % 2))
    columns, futures = columns_of(given), scenarios(random, given, 30)
    found = search(columns, futures)
    compared = compare(columns, futures, NEUTRAL, recourse_for(columns, futures))
    for other in (compared.mean_value, compared.most_reserved, compared.none_reserved):
        assert other >= found.objective * (1 - 1e-6)


def test_what_they_reserve() -> None:
    """One price, one contract that pays: the mean demand, and the highest."""
    random = np.random.default_rng(1)
    given = instance(random, providers=1, classes=1, horizon=1, contracts=(1,))
    futures = scenarios(random, given, 200, least=2, most=8)
    columns = columns_of(given)
    compared = compare(columns, futures, NEUTRAL, recourse_for(columns, futures))
    assert compared.most_reserved_plan.sum() == 8
    assert abs(compared.mean_value_plan.sum() - futures.demand.mean()) <= 1
