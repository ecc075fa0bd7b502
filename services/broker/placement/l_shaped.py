"""The L-shaped method: the first stage as a small program, the second as cuts that are added until both agree. Pure.

Cuts are per block, where the mean is minimised. With a weight on the worst scenarios they are one per iteration: the
scenarios' weights belong to the sum of all costs, and the weights of any iteration give a cut that is valid for all.
First the whole-number demand is left out; then it is added, and the cuts go on to hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from services.broker.placement.deterministic_equivalent import ports_rows
from services.broker.placement.model import NEUTRAL, Columns, Floats, Risk, Scenarios, most_of
from services.broker.placement.recourse import ClosedForm, Cut, Recourse
from services.broker.placement.recourse_lp import ByPrograms
from services.broker.placement.solver import INFINITY, Program, Row, SolverFailed, Status

GAP = 1e-6
"""Relative; at which the search ends."""
MAX_ITERATIONS = 500
_WHOLE = 1e-6

Elapsed = Callable[[], float]
"""Seconds since the search began."""


@dataclass(frozen=True)
class Found:
    """The best first stage that was found."""

    values: Floats
    """Whole numbers, by column."""
    objective: float
    bound: float
    iterations: int
    costs: Floats
    """Of the second stage, by scenario."""

    @property
    def gap(self) -> float:
        """By how much the objective may be above the best one, relative."""
        return max(0.0, (self.objective - self.bound) / max(1.0, abs(self.bound)))


def recourse_for(columns: Columns, scenarios: Scenarios) -> Recourse:
    """In closed form where no capacity couples the classes."""
    return ByPrograms(columns, scenarios) if columns.instance.has_limits else ClosedForm(columns, scenarios)


def search(
    columns: Columns,
    scenarios: Scenarios,
    risk: Risk = NEUTRAL,
    *,
    elapsed_s: Elapsed = lambda: 0.0,
    time_limit_s: float = INFINITY,
    gap: float = GAP,
    recourse: Recourse | None = None,
) -> Found:
    """The best first stage. After ``time_limit_s`` the best that was found, with its gap; raises `SolverFailed`."""
    second = recourse or recourse_for(columns, scenarios)
    master = _Master(columns, scenarios, 1 if risk.weight > 0 else second.blocks)
    best: Found | None = None
    bound, is_whole = 0.0, len(columns) == 0
    for iteration in range(1, MAX_ITERATIONS + 1):
        left_s = time_limit_s - elapsed_s()
        values, lowest = master.solve(left_s if best is not None else max(left_s, 1.0))
        bound = max(bound, lowest)
        rounded = columns.rounded(values)
        priced, costs = evaluate(columns, scenarios, rounded, risk, recourse=second)
        best = _better(best, Found(rounded, priced, bound, iteration, costs))
        if best.gap <= gap or elapsed_s() >= time_limit_s:
            break
        costs = second.costs(values)
        objective = float(columns.price @ values) + risk.of(costs.sum(axis=0))
        if objective - lowest <= gap * max(1.0, abs(lowest)) and not is_whole:
            # The cuts are exact here: what is left is the whole numbers.
            master.demand_whole_numbers()
            is_whole = True
        master.add(_cuts(second, values, risk.weights(costs.sum(axis=0)), together=risk.weight > 0))
        if np.abs(values - rounded).max(initial=0.0) > _WHOLE:
            weights = risk.weights(second.costs(rounded).sum(axis=0))
            master.add(_cuts(second, rounded, weights, together=risk.weight > 0))
    if best is None:
        raise SolverFailed("no iteration was made")
    return best


def evaluate(
    columns: Columns, scenarios: Scenarios, values: Floats, risk: Risk = NEUTRAL, *, recourse: Recourse | None = None
) -> tuple[float, Floats]:
    """What a first stage costs in these scenarios: the objective, and the second stage's costs by scenario."""
    costs = (recourse or recourse_for(columns, scenarios)).costs(values).sum(axis=0)
    return float(columns.price @ values) + risk.of(costs), costs


def _better(best: Found | None, now: Found) -> Found:
    """The better of both, with the newest bound."""
    if best is not None and best.objective <= now.objective:
        return replace(best, bound=now.bound, iterations=now.iterations)
    return now


def _cuts(second: Recourse, values: Floats, weights: Floats, *, together: bool) -> list[Cut]:
    cuts = second.cuts(values, weights)
    if not together:
        return cuts
    factors = np.zeros(len(values))
    for cut in cuts:
        factors[cut.columns] += cut.factors
    at = np.flatnonzero(factors)
    return [Cut(at, factors[at], sum(cut.constant for cut in cuts))]


class _Master:
    """The first stage, and one column per block for what the second costs."""

    def __init__(self, columns: Columns, scenarios: Scenarios, blocks: int) -> None:
        self._count = len(columns)
        upper = np.concatenate([most_of(columns, scenarios), np.full(blocks, INFINITY)])
        self._program = Program(np.concatenate([columns.price, np.ones(blocks)]), np.zeros(len(upper)), upper)
        self._program.add_rows(list(ports_rows(columns)))

    def add(self, cuts: list[Cut]) -> None:
        """One cut per block."""
        self._program.add_rows(
            [
                Row(
                    cut.constant,
                    INFINITY,
                    [*cut.columns.tolist(), self._count + block],
                    [*(-cut.factors).tolist(), 1.0],
                )
                for block, cut in enumerate(cuts)
            ]
        )

    def demand_whole_numbers(self) -> None:
        """From now on."""
        self._program.set_whole(np.arange(self._count))

    def solve(self, time_limit_s: float) -> tuple[Floats, float]:
        """The first stage, and a bound that no first stage is below."""
        if time_limit_s < INFINITY:
            self._program.set_time_limit(time_limit_s)
        solution = self._program.solve()
        if solution.status not in {Status.OPTIMAL, Status.FEASIBLE}:
            if solution.status is Status.NOTHING_FOUND:
                return np.zeros(self._count), 0.0
            raise SolverFailed(f"the first stage is {solution.status}")
        return np.maximum(0.0, solution.values[: self._count]), solution.bound
