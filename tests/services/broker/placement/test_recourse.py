"""The closed form: its cost is the program's; its cuts are below the cost everywhere, exact where they were made."""

from __future__ import annotations

import numpy as np
import pytest

from services.broker.placement.model import Columns, Floats, columns_of
from services.broker.placement.recourse import ClosedForm
from services.broker.placement.recourse_lp import ByPrograms
from tests.support.placement_samples import instance, scenarios


def point(random: np.random.Generator, columns: Columns) -> Floats:
    """Some first stage, not in whole numbers, by which as many VMs come as leave."""
    values = random.uniform(0, 3, len(columns))
    for number, each in enumerate(columns.instance.classes):
        part = columns.parts[number]
        leaves, comes = columns.source[part] >= 0, columns.target[part] >= 0
        here = np.array([each.today[place] for place in columns.source[part][leaves]], dtype=np.float64)
        share = values[part]
        share[leaves] = here * random.uniform(0, 1, len(here))
        if comes.any():
            some = random.uniform(0, 1, int(comes.sum()))
            share[comes] = some / some.sum() * share[leaves].sum()
    return values


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("running", [False, True])
def test_the_cost_is_the_programs(seed: int, *, running: bool) -> None:
    """Of every month and scenario together."""
    random = np.random.default_rng([seed, running])
    given = instance(random, horizon=2, running=running)
    columns, futures = columns_of(given), scenarios(random, given, 6)
    values = point(random, columns)
    closed, programs = ClosedForm(columns, futures), ByPrograms(columns, futures)
    assert closed.costs(values).sum(axis=0) == pytest.approx(programs.costs(values).sum(axis=0))
    mean = sum(each.reserved_cost + each.on_demand_cost for each in closed.use(values))
    assert mean == pytest.approx(closed.costs(values).sum(axis=0).mean())
    for number, each in enumerate(closed.use(values)):
        assert (each.reserved + each.on_demand).sum() == pytest.approx(futures.demand[:, :, number].mean())
    assert closed.runs(values)[0].sum() == pytest.approx(futures.demand[:, :, 0].sum())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("kind", [ClosedForm, ByPrograms])
def test_cuts(seed: int, *, running: bool, kind: type[ClosedForm | ByPrograms]) -> None:
    """Whatever the first stage is, no cut is above the cost."""
    random = np.random.default_rng([seed, running, 7])
    given = instance(random, horizon=2, running=running, limits=kind is ByPrograms)
    columns, futures = columns_of(given), scenarios(random, given, 5)
    weights = random.dirichlet(np.ones(5))
    second = kind(columns, futures)
    here = point(random, columns)
    cuts = second.cuts(here, weights)
    assert len(cuts) == second.blocks
    for values, is_exact in [(here, True), *((point(random, columns), False) for _ in range(8))]:
        for cut, cost in zip(cuts, second.costs(values) @ weights, strict=True):
            below = cut.constant + float(cut.factors @ values[cut.columns])
            assert below <= cost + 1e-6 * abs(cost) + 1e-6
            if is_exact:
                assert below == pytest.approx(cost)
