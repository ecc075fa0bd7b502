"""The L-shaped method finds what the solver finds for all scenarios at once, and is fast where that is not."""

from __future__ import annotations

import time

import numpy as np
import pytest

from services.broker.placement.deterministic_equivalent import solve_whole
from services.broker.placement.l_shaped import evaluate, search
from services.broker.placement.model import NEUTRAL, Risk, columns_of
from services.broker.placement.solver import Status
from tests.support.placement_samples import instance, scenarios


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("limits", [False, True])
def test_the_same_optimum_as_the_whole_program(seed: int, *, running: bool, limits: bool) -> None:
    """In whole numbers, with and without capacity, with and without VMs that run today and cost something to move,
    with and without a weight on the worst scenarios.
    """
    random = np.random.default_rng([seed, running, limits])
    providers, classes, horizon = (int(random.integers(1, most)) for most in (4, 3, 4))
    given = instance(random, providers=providers, classes=classes, horizon=horizon, running=running, limits=limits)
    futures = scenarios(random, given, int(random.integers(1, 6)))
    columns = columns_of(given)
    risk = Risk(0.5, 0.75) if seed % 3 == 0 else NEUTRAL

    found, reference = search(columns, futures, risk), solve_whole(columns, futures, risk)

    assert reference.status is Status.OPTIMAL
    assert found.objective == pytest.approx(reference.objective, rel=1e-6)
    assert found.bound <= found.objective * (1 + 1e-6)
    assert np.array_equal(found.values, np.round(found.values))
    assert evaluate(columns, futures, found.values, risk)[0] == pytest.approx(found.objective)


def test_twenty_providers_ten_classes_a_thousand_scenarios() -> None:
    """The size that a broker must plan for: well within five seconds on an idle core, whatever else this one does."""
    random = np.random.default_rng(1)
    given = instance(random, providers=20, classes=10, horizon=1, contracts=(1,))
    futures = scenarios(random, given, 1000, least=1, most=50)
    started_s = time.process_time()
    found = search(columns_of(given), futures)
    assert time.process_time() - started_s < 5
    assert found.gap <= 0.02


def test_the_time_is_over() -> None:
    """The best that was found until then is given, with its gap."""
    random = np.random.default_rng(5)
    given = instance(random, horizon=3, running=True)
    futures = scenarios(random, given, 20)
    columns = columns_of(given)
    best = search(columns, futures)
    early = search(columns, futures, elapsed_s=lambda: 100.0, time_limit_s=1.0)
    assert early.iterations == 1
    assert early.objective >= best.objective
    assert early.gap > 0
    assert early.bound <= best.objective


def test_dear_ports_keep_vms_where_they_are() -> None:
    """A plan knows where VMs are today: what it costs to move them decides whether they move."""
    random = np.random.default_rng(3)
    given = instance(random, classes=1, horizon=1, running=True)
    (only,) = given.classes
    futures = scenarios(random, given, 10, least=5)
    moved = []
    for porting in (0, 10**6):
        columns = columns_of(type(given)(1, (type(only)(**{**vars(only), "porting": porting}),), given.providers))
        found = search(columns, futures)
        moved.append(float(np.abs(columns.placed(0, found.values) - np.array(only.today)).sum()))
    assert moved[0] > moved[1] == 0
