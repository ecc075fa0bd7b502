"""Draws scenarios of demand and prices from their distributions, always the same for the same seed. Pure."""

from __future__ import annotations

import numpy as np

from services.broker.placement.model import Floats, Scenarios
from shared.messages.demand import Demand, Fixed, Listed, Normal, Uniform, VmsPerMonth


def draw(demand: Demand, providers: int, count: int, *, stream: int = 0) -> Scenarios:
    """``count`` scenarios; each ``stream`` is independent of the others."""
    random = np.random.default_rng([demand.seed, stream])
    shape = (count, demand.horizon_months)
    wanted = np.stack([_vms(random, each.demand, shape) for each in demand.classes], axis=2)
    factors = np.array([float(step.factor) for step in demand.prices])
    chances = np.array([step.probability for step in demand.prices])
    factor = random.choice(factors, size=(*shape, providers), p=chances / chances.sum())
    return Scenarios(wanted, factor)


def _vms(random: np.random.Generator, given: VmsPerMonth, shape: tuple[int, int]) -> Floats:
    match given:
        case Fixed(vms=vms):
            return np.full(shape, float(vms))
        case Normal():
            drawn = np.round(random.normal(given.mean, np.sqrt(given.variance), shape))
            return np.clip(drawn, given.least, given.most)
        case Uniform():
            return random.integers(given.least, given.most + 1, shape).astype(np.float64)
        case Listed():
            weights = np.array(given.weights or [1.0] * len(given.values))
            values = np.array(given.values, dtype=np.float64)
            found: Floats = random.choice(values, size=shape, p=weights / weights.sum())
            return found
