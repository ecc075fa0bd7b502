"""Scenarios follow their distributions, and the same seed draws the same."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from services.broker.placement.scenarios import draw
from shared.messages.demand import Demand, DemandClass, Fixed, Listed, Normal, PriceStep, Uniform, VmsPerMonth

KINDS: tuple[VmsPerMonth, ...] = (
    Fixed(distribution="fixed", vms=7),
    Normal(distribution="normal", mean=25.5, variance=6, least=1, most=50),
    Uniform(distribution="uniform", least=1, most=50),
    Listed(distribution="listed", values=(2, 10), weights=(3, 1)),
    Listed(distribution="listed", values=(0, 4)),
)


def demand(**more: object) -> Demand:
    classes = tuple(
        DemandClass(name=f"class-{number}", vcpus=1, memory_mib=1, disk_gib=0, demand=kind)
        for number, kind in enumerate(KINDS)
    )
    prices = (PriceStep(factor=Decimal(1), probability=0.9), PriceStep(factor=Decimal(2), probability=0.1))
    return Demand.model_validate({"horizon_months": 3, "classes": classes, "prices": prices, **more})


def test_means() -> None:
    """Of every kind of distribution, and of prices."""
    drawn = draw(demand(), 4, 4000)
    assert drawn.demand.shape == (4000, 3, 5)
    assert drawn.demand.mean(axis=(0, 1)) == pytest.approx([7, 25.5, 25.5, 4, 2], rel=0.02)
    assert drawn.demand[:, :, 1].var() == pytest.approx(6, rel=0.05)
    assert set(np.unique(drawn.demand[:, :, 3])) == {2.0, 10.0}
    assert np.array_equal(drawn.demand, np.round(drawn.demand))
    assert drawn.factor.mean() == pytest.approx(1.1, rel=0.01)


def test_seeds_and_streams() -> None:
    """The same is drawn again; another stream or seed is another."""
    first, again = draw(demand(), 2, 50), draw(demand(), 2, 50)
    assert np.array_equal(first.demand, again.demand)
    assert not np.array_equal(first.demand, draw(demand(), 2, 50, stream=1).demand)
    assert not np.array_equal(first.demand, draw(demand(seed=2), 2, 50).demand)


def test_a_normal_demand_is_cut() -> None:
    """Never below its least, never above its most."""
    kind = Normal(distribution="normal", mean=5, variance=100, least=4, most=6)
    only = DemandClass(name="a", vcpus=1, memory_mib=1, disk_gib=0, demand=kind)
    drawn = draw(demand(classes=(only,)), 1, 200)
    assert (drawn.demand.min(), drawn.demand.max()) == (4, 6)
