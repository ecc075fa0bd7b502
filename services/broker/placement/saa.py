"""Sample average approximation: how far a plan may be from the best for the true distribution. Pure.

The mean of the optima of independent samples is below the best possible mean (lower bound); what a fixed plan costs in
new scenarios estimates a mean that is above it (upper bound). Both get Student intervals, as Linderoth, Shapiro and
Wright have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.broker.placement.l_shaped import Elapsed, Found, evaluate, search
from services.broker.placement.model import Columns, Floats, Risk, Scenarios
from services.broker.placement.solver import INFINITY

BATCHES = 5
TEST_BATCHES = 10
GAP = 0.02
_ONE_SIDED_95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833}
"""Student's t by degrees of freedom."""

Sampler = Callable[[int, int], Scenarios]
"""``count`` scenarios of an independent ``stream``."""


@dataclass(frozen=True)
class Bounds:
    """One-sided 95 % bounds, and by what they were found."""

    low: float
    high: float
    size: int
    batches: int

    @property
    def gap(self) -> float:
        """Relative to the lower bound."""
        return max(0.0, (self.high - self.low) / max(1.0, abs(self.low)))


def bounds(
    columns: Columns,
    sample: Sampler,
    values: Floats,
    size: int,
    risk: Risk,
    *,
    known: tuple[float, ...] = (),
    elapsed_s: Elapsed = lambda: 0.0,
    time_limit_s: float = INFINITY,
) -> Bounds:
    """Bounds by samples of this size; ``known`` are optima of samples that were solved before. At least two of each."""
    lows = list(known)
    for stream in range(1, BATCHES + 1 - len(known)):
        if len(lows) >= 2 and elapsed_s() >= time_limit_s:
            break
        lows.append(search(columns, sample(size, stream), risk).bound)
    highs = [evaluate(columns, sample(size, 1000 + stream), values, risk)[0] for stream in range(TEST_BATCHES)]
    return Bounds(_edge(lows, -1), _edge(highs, 1), size, len(lows))


def solve(
    columns: Columns,
    sample: Sampler,
    size: int,
    risk: Risk,
    *,
    most: int,
    elapsed_s: Elapsed = lambda: 0.0,
    time_limit_s: float = INFINITY,
) -> tuple[Found, Scenarios, Bounds]:
    """A plan by a sample that is doubled until its bounds are within 2 %, it is ``most``, or the time is over."""
    while True:
        scenarios = sample(size, 0)
        found = search(columns, scenarios, risk, elapsed_s=elapsed_s, time_limit_s=time_limit_s)
        limits = bounds(
            columns,
            sample,
            found.values,
            size,
            risk,
            known=(found.bound,),
            elapsed_s=elapsed_s,
            time_limit_s=time_limit_s,
        )
        # Twice the sample takes about twice as long as all until now.
        if limits.gap <= GAP or size >= most or 3 * elapsed_s() >= time_limit_s:
            return found, scenarios, limits
        size = min(most, 2 * size)


def _edge(means: list[float], side: int) -> float:
    count = len(means)
    spread = float(np.std(means, ddof=1)) if count > 1 else 0.0
    return float(np.mean(means)) + side * _ONE_SIDED_95[max(1, count - 1)] * spread / math.sqrt(count)
