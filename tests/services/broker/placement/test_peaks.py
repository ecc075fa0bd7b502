"""Limits of providers: whether the best plan without them keeps them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from services.broker.placement.l_shaped import search
from services.broker.placement.model import columns_of
from services.broker.placement.peaks import binding, without_limits
from tests.support.placement_samples import instance, scenarios


def test_only_what_a_scenario_exceeds_binds() -> None:
    """A limit above every month's VMs changes nothing."""
    random = np.random.default_rng(1)
    given = instance(random, limits=True)
    futures = scenarios(random, given, 20)
    columns = columns_of(without_limits(given))
    found = search(columns, futures)
    high = replace(given, limits=((1000.0, np.inf),) * 3)
    low = replace(given, limits=((1.0, np.inf),) * 3)
    assert not binding(high, columns, futures, found.values)
    assert binding(low, columns, futures, found.values)
    assert not without_limits(low).has_limits
