"""The second stage as linear programs, where a provider states a capacity, which couples the classes. Pure.

One program for all scenarios and months: only prices and bounds of rows change, so each solution starts from the last.
"""

from __future__ import annotations

import numpy as np

from services.broker.placement.deterministic_equivalent import layout_of, month_rows, prices_of
from services.broker.placement.model import Columns, Floats, Ints, Scenarios
from services.broker.placement.recourse import Cut, Use
from services.broker.placement.solver import INFINITY, Program, SolverFailed, Status

_KEPT = 2
_ENOUGH = 1e-6
"""A shortage below this is rounding."""


class ByPrograms:
    """One block per month."""

    def __init__(self, columns: Columns, scenarios: Scenarios) -> None:
        self._columns, self._scenarios, self._instance = columns, scenarios, columns.instance
        self._layout = layout_of(columns)
        nothing = np.zeros(self._layout.count)
        self._program = Program(nothing, nothing, np.full(self._layout.count, INFINITY))
        made = list(month_rows(columns, self._layout, 0, np.zeros(len(self._instance.classes))))
        self._program.add_rows([row for row, _, _ in made])
        self._lower = np.array([row.lower for row, _, _ in made])
        self._upper = np.array([row.upper for row, _, _ in made])
        self._held_rows, self._place_rows, self._demand_rows, self._more_rows = _rows_of(columns)
        self._coupled = self._more_rows[-1] + 1
        self._kept: dict[bytes, tuple[Floats, Floats, Floats]] = {}

    @property
    def blocks(self) -> int:
        """How many there are."""
        return self._instance.horizon

    def _solve(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Costs by [month, scenario], duals of rows and values of columns by [month, scenario, …]."""
        key = values.tobytes()
        if key in self._kept:
            return self._kept[key]
        horizon, count = self._instance.horizon, len(self._scenarios)
        costs = np.zeros((horizon, count))
        duals = np.zeros((horizon, count, self._coupled))
        found = np.zeros((horizon, count, self._layout.count))
        classes = range(len(self._instance.classes))
        held = [self._columns.reserved(number, values) for number in classes]
        placed = [self._columns.placed(number, values) for number in classes]
        for month in range(horizon):
            for number in classes:
                self._upper[self._held_rows[number]] = held[number][:, month]
                self._upper[self._place_rows[number]] = placed[number]
            for scenario in range(count):
                self._bound(month, scenario)
                solution = self._program.solve()
                if solution.status is not Status.OPTIMAL:
                    raise SolverFailed(f"month {month + 1} of scenario {scenario}: {solution.status}")
                costs[month, scenario] = solution.objective
                duals[month, scenario] = solution.row_duals[: self._coupled]
                found[month, scenario] = solution.values
        while len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (costs, duals, found)
        return costs, duals, found

    def _bound(self, month: int, scenario: int) -> None:
        demand = self._scenarios.demand[scenario, month]
        running = np.array([each.running for each in self._instance.classes], dtype=np.float64)
        self._lower[self._demand_rows] = demand
        self._upper[self._more_rows] = np.maximum(0, demand - running)
        self._program.set_rows(0, self._lower[: self._coupled], self._upper[: self._coupled])
        self._program.set_prices(prices_of(self._columns, self._layout, self._scenarios.factor[scenario, month]))

    def costs(self, values: Floats) -> Floats:
        """By [block, scenario]."""
        return self._solve(values)[0]

    def cuts(self, values: Floats, weights: Floats) -> list[Cut]:
        """One per block."""
        costs, duals, _ = self._solve(values)
        made = []
        for month in range(self._instance.horizon):
            worth = weights @ duals[month]
            factors = np.zeros(len(self._columns))
            for number in range(len(self._instance.classes)):
                at, slopes = self._columns.slopes(
                    number, month, worth[self._held_rows[number]], worth[self._place_rows[number]]
                )
                factors[at] += slopes
            constant = float(weights @ costs[month] - factors @ values)
            is_some = np.flatnonzero(factors)
            made.append(Cut(is_some, factors[is_some], constant))
        return made

    def use(self, values: Floats) -> list[Use]:
        """Per class."""
        _, _, found = self._solve(values)
        made = []
        for number, each in enumerate(self._instance.classes):
            used = found[:, :, self._layout.used[number]]
            bought = found[:, :, self._layout.bought[number]]
            at = np.array([slot.provider for slot in each.slots], dtype=np.int64)
            prices = np.array(each.on_demand) * self._scenarios.factor[:, :, list(each.providers)].swapaxes(0, 1)
            uses = np.array([slot.use for slot in each.slots], dtype=np.float64)
            per_provider = np.bincount(at, used.mean(axis=(0, 1)), len(each.providers)).astype(np.float64)
            made.append(
                Use(
                    per_provider,
                    bought.mean(axis=(0, 1)),
                    float((used @ uses).mean(axis=1).sum()),
                    float((bought * prices).sum(axis=2).mean(axis=1).sum()),
                )
            )
        return made

    def shortage(self, values: Floats) -> Floats:
        """Per class."""
        most = self._solve(values)[2][:, :, list(self._layout.short)].max(axis=(0, 1))
        return np.where(most > _ENOUGH, most, 0.0)


def _rows_of(columns: Columns) -> tuple[list[Ints], list[Ints], Ints, Ints]:
    """Where each class's rows are: of its slots, of its providers, of its demand, of what may begin."""
    held, places, demand, more, at = [], [], [], [], 0
    for each in columns.instance.classes:
        held.append(np.arange(at, at + len(each.slots)))
        at += len(each.slots)
        places.append(np.arange(at, at + len(each.providers)))
        at += len(each.providers)
        demand.append(at)
        more.append(at + 1)
        at += 2
    return held, places, np.array(demand), np.array(more)
