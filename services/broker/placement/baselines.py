"""What a plan is compared with, as Chaisiri does: planning for the mean (EVU), reserving for the highest demand
(MaxRes), and reserving nothing (NoRes). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.broker.placement.l_shaped import Elapsed, evaluate, search
from services.broker.placement.model import Columns, Floats, Risk, Scenarios, columns_of
from services.broker.placement.recourse import Recourse
from services.broker.placement.solver import INFINITY


@dataclass(frozen=True)
class Baselines:
    """Objectives by the same scenarios, and what each reserves."""

    mean_value: float
    most_reserved: float
    none_reserved: float
    mean_value_plan: Floats
    most_reserved_plan: Floats


def compare(
    columns: Columns,
    scenarios: Scenarios,
    risk: Risk,
    recourse: Recourse,
    *,
    elapsed_s: Elapsed = lambda: 0.0,
    time_limit_s: float = INFINITY,
) -> Baselines:
    """All three; each first stage is found without looking at the scenarios one by one, then priced by all of them."""
    made = [
        search(columns, one, elapsed_s=elapsed_s, time_limit_s=time_limit_s).values
        for one in (scenarios.mean(), scenarios.highest())
    ]
    priced = [evaluate(columns, scenarios, values, risk, recourse=recourse)[0] for values in made]
    bare = columns_of(columns.instance.without_reservations())
    nothing = search(bare, scenarios, risk, elapsed_s=elapsed_s, time_limit_s=time_limit_s)
    return Baselines(priced[0], priced[1], nothing.objective, made[0], made[1])
