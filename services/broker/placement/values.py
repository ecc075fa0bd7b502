"""What it is worth to plan for uncertainty (VSS), and what it would be worth to know the future (EVPI). Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.broker.placement.l_shaped import Elapsed, Found, search
from services.broker.placement.model import Columns, Scenarios
from services.broker.placement.solver import INFINITY

MOST_ASKED = 40
LEAST_ASKED = 3


@dataclass(frozen=True)
class PerfectInformation:
    """EVPI by some of the scenarios."""

    value: float
    scenarios: int


def vss(mean_value: float, objective: float) -> float:
    """What a plan for the mean costs more."""
    return max(0.0, mean_value - objective)


def perfect_information(
    columns: Columns,
    scenarios: Scenarios,
    found: Found,
    *,
    most: int = MOST_ASKED,
    elapsed_s: Elapsed = lambda: 0.0,
    time_limit_s: float = INFINITY,
) -> PerfectInformation:
    """Mean of what each scenario costs more by the plan than by the best plan for this scenario alone.

    Both are taken of the same scenarios, so that few give a good mean. After the time limit no more are asked.
    """
    more: list[float] = []
    first = float(columns.price @ found.values)
    for number in range(min(most, len(scenarios))):
        if len(more) >= LEAST_ASKED and elapsed_s() >= time_limit_s:
            break
        alone = search(columns, scenarios.some(np.array([number])))
        more.append(first + float(found.costs[number]) - alone.objective)
    return PerfectInformation(max(0.0, float(np.mean(more))), len(more))
