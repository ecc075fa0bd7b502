"""All scenarios in one program, the deterministic equivalent: the reference, for instances that are small. Pure.

Per scenario, month and class: reserved VMs are used (``e``) or not, VMs are bought on demand (``o``), further VMs begin
somewhere (``w``), and what cannot be placed is a shortage at a price that no plan pays if it can avoid it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from services.broker.placement.model import NEUTRAL, Columns, Floats, Risk, Scenarios, most_of
from services.broker.placement.solver import INFINITY, Program, Row, Solution


@dataclass(frozen=True)
class Layout:
    """Where the second stage's columns of one scenario and month are, counted from its first one."""

    used: tuple[slice, ...]
    """Per class, by slot."""
    bought: tuple[slice, ...]
    """Per class, by provider."""
    begun: tuple[slice, ...]
    short: tuple[int, ...]
    count: int


def layout_of(columns: Columns) -> Layout:
    """The columns of one scenario and month."""
    at = 0
    used, bought, begun, short = [], [], [], []
    for each in columns.instance.classes:
        used.append(slice(at, at := at + len(each.slots)))
        bought.append(slice(at, at := at + len(each.providers)))
        begun.append(slice(at, at := at + len(each.providers)))
        short.append(at)
        at += 1
    return Layout(tuple(used), tuple(bought), tuple(begun), tuple(short), at)


def prices_of(columns: Columns, layout: Layout, factor: Floats) -> Floats:
    """Prices of one scenario's month, whose on-demand prices are multiplied by ``factor`` per provider."""
    prices = np.zeros(layout.count)
    for number, each in enumerate(columns.instance.classes):
        prices[layout.used[number]] = [slot.use for slot in each.slots]
        prices[layout.bought[number]] = np.array(each.on_demand) * factor[list(each.providers)]
        prices[layout.short[number]] = columns.instance.shortage
    return prices


def month_rows(columns: Columns, layout: Layout, first: int, demand: Floats) -> Iterator[tuple[Row, int, int]]:
    """The rows of a month whose columns begin at ``first``: each with its class and its slot, or provider, or -1.

    The order is: per class its slots, its providers, its demand, how many may begin; then limits of providers.
    ``upper`` of a slot's row is 0, and of a provider's row 0: the caller adds what is reserved and what runs there.
    """
    for number, each in enumerate(columns.instance.classes):
        used, bought, begun = layout.used[number], layout.bought[number], layout.begun[number]
        for place in range(len(each.slots)):
            yield Row(-INFINITY, 0.0, [first + used.start + place], [1.0]), number, place
        for place in range(len(each.providers)):
            mine = [at for at, slot in enumerate(each.slots) if slot.provider == place]
            at = [first + used.start + slot for slot in mine]
            at += [first + bought.start + place, first + begun.start + place]
            yield Row(-INFINITY, 0.0, at, [1.0] * (len(mine) + 1) + [-1.0]), number, place
        at = [*range(first + used.start, first + bought.stop), first + layout.short[number]]
        yield Row(float(demand[number]), INFINITY, at, [1.0] * len(at)), number, -1
        at = list(range(first + begun.start, first + begun.stop))
        most = max(0.0, float(demand[number]) - each.running)
        yield Row(-INFINITY, most, at, [1.0] * len(at)), number, -1
    yield from _limit_rows(columns, layout, first)


def _limit_rows(columns: Columns, layout: Layout, first: int) -> Iterator[tuple[Row, int, int]]:
    instance = columns.instance
    for provider, limits in enumerate(instance.limits):
        for resource, limit in enumerate(limits):
            if not np.isfinite(limit):
                continue
            at, factors = [], []
            for number, each in enumerate(instance.classes):
                if provider not in each.providers or not each.needs[resource]:
                    continue
                place = each.providers.index(provider)
                mine = [slot for slot, one in enumerate(each.slots) if one.provider == place]
                at += [first + layout.used[number].start + slot for slot in mine]
                at.append(first + layout.bought[number].start + place)
                factors += [each.needs[resource]] * (len(mine) + 1)
            if at:
                yield Row(-INFINITY, float(limit), at, factors), -1, provider


def solve_whole(
    columns: Columns,
    scenarios: Scenarios,
    risk: Risk = NEUTRAL,
    *,
    time_limit_s: float = INFINITY,
    whole: bool = True,
) -> Solution:
    """Solve the deterministic equivalent; ``whole``: the first stage in whole VMs. Values of later columns follow."""
    layout, horizon, count = layout_of(columns), columns.instance.horizon, len(scenarios)
    first_of_tail = len(columns) + count * horizon * layout.count
    prices = [columns.price]
    for scenario in range(count):
        for month in range(horizon):
            each = prices_of(columns, layout, scenarios.factor[scenario, month])
            prices.append(each * ((1 - risk.weight) / count))
    tail = np.full(count + 1, risk.weight / (count * (1 - risk.level)))
    tail[0] = risk.weight
    lower = np.zeros(first_of_tail + count + 1)
    upper = np.full(first_of_tail + count + 1, INFINITY)
    upper[: len(columns)] = most_of(columns, scenarios)
    program = Program(np.concatenate([*prices, tail]), lower, upper, time_limit_s=time_limit_s)
    rows = [*ports_rows(columns)]
    for scenario in range(count):
        for month in range(horizon):
            first = len(columns) + (scenario * horizon + month) * layout.count
            rows += _tied(columns, layout, first, month, scenarios.demand[scenario, month])
        if risk.weight > 0:
            rows.append(_excess(columns, layout, scenarios, scenario, first_of_tail))
    program.add_rows(rows)
    if whole:
        program.set_whole(np.arange(len(columns)))
    return program.solve()


def ports_rows(columns: Columns) -> Iterator[Row]:
    """As many VMs of a class come somewhere as leave somewhere."""
    for number, each in enumerate(columns.instance.classes):
        part = columns.parts[number]
        if each.running:
            leaves, comes = (
                part.start + np.flatnonzero(place[part] >= 0) for place in (columns.source, columns.target)
            )
            factors = np.concatenate([np.ones(len(leaves)), -np.ones(len(comes))])
            yield Row(0.0, 0.0, np.concatenate([leaves, comes]), factors)


def _tied(columns: Columns, layout: Layout, first: int, month: int, demand: Floats) -> Iterator[Row]:
    """The month's rows, tied to the first stage's columns."""
    for row, number, place in month_rows(columns, layout, first, demand):
        if number < 0 or place < 0:
            yield row
            continue
        each = columns.instance.classes[number]
        is_slot = len(row.columns) == 1
        of_slots, of_places = np.zeros(len(each.slots)), np.zeros(len(each.providers))
        (of_slots if is_slot else of_places)[place] = 1.0
        at, factors = columns.slopes(number, month, of_slots, of_places)
        fixed = 0.0 if is_slot else float(each.today[place])
        is_some = factors != 0
        yield Row(
            -INFINITY,
            fixed,
            [*row.columns, *at[is_some].tolist()],
            [*row.factors, *(-factors[is_some]).tolist()],
        )


def _excess(columns: Columns, layout: Layout, scenarios: Scenarios, scenario: int, tail: int) -> Row:
    """A scenario's cost above the level from which on it is among the worst."""
    horizon = columns.instance.horizon
    at, factors = [], []
    for month in range(horizon):
        prices = prices_of(columns, layout, scenarios.factor[scenario, month])
        first = len(columns) + (scenario * horizon + month) * layout.count
        some = np.flatnonzero(prices)
        at += (first + some).tolist()
        factors += prices[some].tolist()
    return Row(-INFINITY, 0.0, [*at, tail, tail + 1 + scenario], [*factors, -1.0, -1.0])
