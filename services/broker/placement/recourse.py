"""The second stage in closed form, where no capacity couples the classes: what one month costs, for all scenarios at
once, and its slopes. Pure.

Of a class, VMs that run at provider j cost there: reserved ones first, the cheapest first, then on demand. The VMs
that run now stay where the first stage has put them. A month that needs more of them takes each further VM wherever the
next one is cheapest; a month that needs fewer stops the dearest. Both are greedy, and greedy is optimal, because a
provider's costs are convex. The slopes are the dual solution of the same linear problem, so that the cut that is built
of them is below the cost everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from services.broker.placement.model import Columns, Floats, Ints, Scenarios, VmClass


@dataclass(frozen=True)
class Cut:
    """The cost of a block is at least ``constant`` + sum of ``factors`` x ``columns``."""

    columns: Ints
    factors: Floats
    constant: float


@dataclass(frozen=True)
class Use:
    """How many VMs of a class run at each of its providers, in the mean over months and scenarios; and their costs."""

    reserved: Floats
    on_demand: Floats
    reserved_cost: float
    on_demand_cost: float


class Recourse(Protocol):
    """What months cost after the first stage. A block is a part of the costs that has cuts of its own."""

    @property
    def blocks(self) -> int:
        """How many there are."""
        ...

    def costs(self, values: Floats) -> Floats:
        """By [block, scenario]."""
        ...

    def cuts(self, values: Floats, weights: Floats) -> list[Cut]:
        """One per block, of its costs weighted by scenario, exact at ``values``."""
        ...

    def use(self, values: Floats) -> list[Use]:
        """Per class."""
        ...

    def shortage(self, values: Floats) -> Floats:
        """VMs of each class that cannot be placed in the month and scenario that are the worst for it."""
        ...


_KEPT = 2
_NOTHING = 1e-9
"""Less than this is rounding."""


class ClosedForm:
    """One block per class and month."""

    def __init__(self, columns: Columns, scenarios: Scenarios) -> None:
        self._columns = columns
        self._scenarios = scenarios
        self._instance = columns.instance
        self._kept: dict[bytes, list[_Month]] = {}
        self._keys = [
            (number, month) for number in range(len(self._instance.classes)) for month in range(self._instance.horizon)
        ]

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self._keys)

    def _months(self, values: Floats) -> list[_Month]:
        """Each month at these values; the last few are kept, since costs and cuts are asked for one after the other."""
        key = values.tobytes()
        if key in self._kept:
            return self._kept[key]
        found = []
        for number, each in enumerate(self._instance.classes):
            held, placed = self._columns.reserved(number, values), self._columns.placed(number, values)
            prices = self._scenarios.factor[:, :, list(each.providers)] * np.array(each.on_demand, dtype=np.float64)
            found += [
                _Month(each, held[:, month], placed, self._scenarios.demand[:, month, number], prices[:, month])
                for month in range(self._instance.horizon)
            ]
        while len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = found
        return found

    def costs(self, values: Floats) -> Floats:
        """By [block, scenario]."""
        return np.stack([month.costs for month in self._months(values)])

    def cuts(self, values: Floats, weights: Floats) -> list[Cut]:
        """One per block."""
        made = []
        for (number, month), block in zip(self._keys, self._months(values), strict=True):
            of_slots, of_places = block.slopes()
            columns, factors = self._columns.slopes(number, month, weights @ of_slots, weights @ of_places)
            constant = float(weights @ block.costs - factors @ values[columns])
            is_some = factors != 0
            made.append(Cut(columns[is_some], factors[is_some], constant))
        return made

    def use(self, values: Floats) -> list[Use]:
        """Per class."""
        months, horizon = self._months(values), self._instance.horizon
        found = []
        for number in range(len(self._instance.classes)):
            parts = [month.use() for month in months[number * horizon : (number + 1) * horizon]]
            found.append(
                Use(
                    np.mean([part.reserved for part in parts], axis=0),
                    np.mean([part.on_demand for part in parts], axis=0),
                    sum(part.reserved_cost for part in parts),
                    sum(part.on_demand_cost for part in parts),
                )
            )
        return found

    def runs(self, values: Floats) -> list[Floats]:
        """Per class, how many VMs run, by [month, scenario, provider]."""
        months, horizon = self._months(values), self._instance.horizon
        return [
            np.stack([month.runs() for month in months[number * horizon : (number + 1) * horizon]])
            for number in range(len(self._instance.classes))
        ]

    def shortage(self, values: Floats) -> Floats:
        """Nobody states a capacity, so there is none."""
        return np.zeros(len(self._instance.classes)) * len(values)


class _Month:
    """One class in one month. Arrays by [scenario, slot] and [scenario, provider]; slots are ordered by their price."""

    def __init__(self, each: VmClass, held: Floats, placed: Floats, demand: Floats, prices: Floats) -> None:
        self._held, self._demand, self._prices = held, demand, prices
        self._at = np.array([slot.provider for slot in each.slots], dtype=np.int64)
        self._use = np.array([slot.use for slot in each.slots], dtype=np.float64)
        self._placed = placed
        self._base = self._base_of_slots()
        self._base_on_demand = placed - np.bincount(self._at, self._base, len(placed))
        self._grows = demand >= placed.sum()

    @cached_property
    def _slot_prices(self) -> Floats:
        # Nobody uses a reserved VM that costs more than one on demand at the same provider.
        return np.minimum(self._use, self._prices[:, self._at])

    @cached_property
    def _lowest(self) -> Floats:
        lowest: Floats = self._prices.min(axis=1)
        return lowest

    def _base_of_slots(self) -> Floats:
        """Of each slot, what the VMs take that run now, if all of them run."""
        base = np.zeros(len(self._held))
        for place in np.flatnonzero(self._placed):
            mine = np.flatnonzero(self._at == place)
            before = np.cumsum(self._held[mine]) - self._held[mine]
            base[mine] = np.clip(self._placed[place] - before, 0, self._held[mine])
        return base

    # Months that need all VMs of now, and more

    def _filled(self, rows: Ints) -> tuple[Floats, Floats, Floats]:
        """What further VMs take of each slot, and on demand; and the lowest price on demand."""
        left = self._held - self._base
        before = np.cumsum(left) - left
        more = self._demand[rows] - self._placed.sum()
        lowest = self._lowest[rows]
        filled = np.clip(more[:, None] - before[None, :], 0, left[None, :])
        return filled, more - filled.sum(axis=1), lowest

    def _grown_costs(self, rows: Ints) -> Floats:
        filled, bought, lowest = self._filled(rows)
        base = self._prices[rows] @ self._base_on_demand
        if self._base.any():
            base = base + self._slot_prices[rows] @ self._base
        new = (filled * np.minimum(self._use, lowest[:, None])).sum(axis=1)
        costs: Floats = base + new + bought * lowest
        return costs

    def _grown_slopes(self, rows: Ints) -> tuple[Floats, Floats]:
        """A VM's worth at each provider: what the last one there costs, and at least what the last further one does."""
        left = self._held - self._base
        ends = np.cumsum(left)
        more = self._demand[rows] - self._placed.sum()
        lowest = self._lowest[rows]
        place = np.where(more > 0, np.searchsorted(ends, more, "left"), np.searchsorted(ends, 0.0, "right"))
        steps = np.append(self._use, np.inf)
        worth = np.minimum(steps[place], lowest)
        at = np.repeat(worth[:, None], len(self._placed), axis=1)
        for number in np.flatnonzero(self._placed > _NOTHING):
            if self._base_on_demand[number] > _NOTHING:
                last = self._prices[rows, number]
            else:
                used = np.flatnonzero((self._at == number) & (self._base > 0))[-1]
                last = self._slot_prices[rows, used]
            at[:, number] = np.maximum(at[:, number], last)
        return -np.maximum(0, at[:, self._at] - self._use), at

    # Months that need fewer

    def _shrunk(self, rows: Ints) -> tuple[Floats, Floats, Ints]:
        """What is used of what the VMs of now have, by [scenario, slots and then providers]; the last price; the last
        provider of each part.
        """
        parts = np.concatenate([self._base, self._base_on_demand])
        prices = np.concatenate([self._slot_prices[rows], self._prices[rows]], axis=1)
        order = np.argsort(prices, axis=1, kind="stable")
        sorted_parts = parts[order]
        ends = np.cumsum(sorted_parts, axis=1)
        wanted = self._demand[rows][:, None]
        filled_sorted = np.clip(wanted - (ends - sorted_parts), 0, sorted_parts)
        filled = np.zeros_like(filled_sorted)
        np.put_along_axis(filled, order, filled_sorted, axis=1)
        used = np.where(filled > 0, prices, 0.0)
        return filled, used.max(axis=1), np.concatenate([self._at, np.arange(len(self._placed))])

    def _shrunk_costs(self, rows: Ints) -> Floats:
        filled, _, _ = self._shrunk(rows)
        prices = np.concatenate([self._slot_prices[rows], self._prices[rows]], axis=1)
        costs: Floats = (filled * prices).sum(axis=1)
        return costs

    def _shrunk_slopes(self, rows: Ints) -> tuple[Floats, Floats]:
        filled, last, places = self._shrunk(rows)
        at = np.zeros((len(rows), len(self._placed)))
        for number in range(len(self._placed)):
            runs = filled[:, places == number].sum(axis=1)
            mine = np.flatnonzero(self._at == number)
            ends = np.cumsum(self._held[mine])
            steps = np.append(self._use[mine], np.inf)
            following = np.minimum(steps[np.searchsorted(ends, runs + _NOTHING, "right")], self._prices[rows, number])
            at[:, number] = np.minimum(last, following)
        return -np.maximum(0, at[:, self._at] - self._use), -np.maximum(0, last[:, None] - at)

    # Both

    def _split(self) -> tuple[Ints, Ints]:
        return np.flatnonzero(self._grows), np.flatnonzero(~self._grows)

    @cached_property
    def costs(self) -> Floats:
        """By [scenario]."""
        found = np.zeros(len(self._demand))
        grown, shrunk = self._split()
        if len(grown):
            found[grown] = self._grown_costs(grown)
        if len(shrunk):
            found[shrunk] = self._shrunk_costs(shrunk)
        return found

    def slopes(self) -> tuple[Floats, Floats]:
        """By how much the cost changes per reserved VM, [scenario, slot], and per VM that runs at a provider."""
        of_slots = np.zeros((len(self._demand), len(self._held)))
        of_places = np.zeros((len(self._demand), len(self._placed)))
        grown, shrunk = self._split()
        if len(grown):
            of_slots[grown], of_places[grown] = self._grown_slopes(grown)
        if len(shrunk):
            of_slots[shrunk], of_places[shrunk] = self._shrunk_slopes(shrunk)
        return of_slots, of_places

    def _taken(self) -> tuple[Floats, Floats]:
        """Reserved VMs that are used, by [scenario, slot], and those on demand, by [scenario, provider]."""
        grown, shrunk = self._split()
        slots = np.zeros((len(self._demand), len(self._held)))
        bought = np.zeros((len(self._demand), len(self._placed)))
        if len(grown):
            filled, further, lowest = self._filled(grown)
            # A further VM takes a reserved place only where that is cheaper than the lowest price on demand.
            costly = np.where(self._use > lowest[:, None], filled, 0.0)
            slots[grown] = filled - costly + self._base
            bought[grown] = self._base_on_demand
            bought[grown, self._prices[grown].argmin(axis=1)] += further + costly.sum(axis=1)
        if len(shrunk):
            filled, _, _ = self._shrunk(shrunk)
            slots[shrunk], bought[shrunk] = filled[:, : len(self._held)], filled[:, len(self._held) :]
        return slots, bought

    def runs(self) -> Floats:
        """VMs by [scenario, provider]."""
        slots, bought = self._taken()
        found = bought.copy()
        for place, taken in zip(self._at.tolist(), slots.T, strict=True):
            found[:, place] += taken
        return found

    def use(self) -> Use:
        """In the mean over the scenarios."""
        slots, bought = self._taken()
        reserved_cost = float((slots * self._slot_prices).sum(axis=1).mean())
        per_provider = np.bincount(self._at, slots.mean(axis=0), len(self._placed)).astype(np.float64)
        return Use(per_provider, bought.mean(axis=0), reserved_cost, float((bought * self._prices).sum(axis=1).mean()))
