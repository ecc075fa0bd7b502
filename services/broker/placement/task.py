"""One plan from a demand to its result: what the worker process is asked, and what it answers. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import UUID

import numpy as np
from pydantic import Field

from services.broker.placement import baselines, saa, values
from services.broker.placement.instance import Built, PlanProblem, build
from services.broker.placement.l_shaped import Elapsed, Found, recourse_for
from services.broker.placement.model import Columns, Floats, Instance, Risk, Scenarios, columns_of, moves_of
from services.broker.placement.peaks import binding, without_limits
from services.broker.placement.recourse import Recourse
from services.broker.placement.scenarios import draw
from services.broker.placement.solver import SolverFailed
from shared.messages.base import Text, Value
from shared.messages.catalogue import Catalogue
from shared.messages.demand import Demand
from shared.messages.plans import ExpectedUse, Move, PlanCosts, PlanFigures, PlanResult, ReservationAdvice
from shared.parties import Name

FIRST_SAMPLE = 250
MOST_PROGRAMS = 300
"""Scenarios x months, where each is a linear program of its own."""


class Task(Value):
    """A plan to be found."""

    demand: Demand
    catalogues: dict[Name, Catalogue]
    at: dict[UUID, Name]
    time_limit_s: Annotated[float, Field(gt=0)] = 60.0


class Solved(Value):
    """A plan, or why there is none."""

    result: PlanResult | None = None
    moves: tuple[Move, ...] = ()
    failure: Text = ""


def solve(task: Task, *, elapsed_s: Elapsed) -> Solved:
    """Find a plan. Raises nothing that a tenant can cause."""
    try:
        return _solve(task, elapsed_s)
    except (PlanProblem, SolverFailed) as error:
        return Solved(failure=str(error))


def _solve(task: Task, elapsed_s: Elapsed) -> Solved:
    demand, built = task.demand, build(task.demand, task.catalogues, task.at)
    risk = Risk(demand.risk, demand.risk_level)
    search_s = 0.6 * task.time_limit_s

    def sample(count: int, stream: int) -> Scenarios:
        return draw(demand, len(built.instance.providers), count, stream=stream)

    # Limits that no scenario reaches in the best plan without them change nothing.
    columns = columns_of(without_limits(built.instance))
    most = demand.scenarios
    found, scenarios, limits = saa.solve(
        columns, sample, min(FIRST_SAMPLE, most), risk, most=most, elapsed_s=elapsed_s, time_limit_s=search_s
    )
    if built.instance.has_limits and binding(built.instance, columns, scenarios, found.values):
        columns = columns_of(built.instance)
        most = max(2, min(most, MOST_PROGRAMS // demand.horizon_months))
        found, scenarios, limits = saa.solve(
            columns, sample, most, risk, most=most, elapsed_s=elapsed_s, time_limit_s=search_s + elapsed_s()
        )
    second = recourse_for(columns, scenarios)
    _check_placed(built.instance, second, found)
    figures = _figures(
        columns,
        scenarios,
        found,
        limits=limits,
        risk=risk,
        second=second,
        elapsed_s=elapsed_s,
        time_limit_s=task.time_limit_s,
    )
    return Solved(result=_result(built, columns, found, second, figures), moves=_moves(built, columns, found))


def _check_placed(instance: Instance, second: Recourse, found: Found) -> None:
    short = second.shortage(found.values)
    for number in np.flatnonzero(short):
        name = instance.classes[number].name
        raise PlanProblem(
            f"classes.{name}.demand: in the worst scenario {short[number]:.0f} VMs fit at no provider within the "
            "limits that providers set for one tenant"
        )


def _figures(
    columns: Columns,
    scenarios: Scenarios,
    found: Found,
    *,
    limits: saa.Bounds,
    risk: Risk,
    second: Recourse,
    elapsed_s: Elapsed,
    time_limit_s: float,
) -> PlanFigures:
    compared = baselines.compare(columns, scenarios, risk, second, elapsed_s=elapsed_s, time_limit_s=time_limit_s)
    known = values.perfect_information(columns, scenarios, found, elapsed_s=elapsed_s, time_limit_s=time_limit_s)
    first = float(columns.price @ found.values)
    how = "programs per scenario" if columns.instance.has_limits else "closed form"
    weighed = f", CVaR {risk.level:g} weighs {risk.weight:g}" if risk.weight else ""
    return PlanFigures(
        method=f"L-shaped, second stage by {how}{weighed}",
        scenarios=len(scenarios),
        iterations=found.iterations,
        lower_bound=_money(found.bound),
        gap=found.gap,
        sample_low=_money(max(0.0, limits.low)),
        sample_high=_money(limits.high),
        worst=_money(first + risk.worst(found.costs)),
        mean_value=_money(compared.mean_value),
        most_reserved=_money(compared.most_reserved),
        none_reserved=_money(compared.none_reserved),
        vss=_money(values.vss(compared.mean_value, found.objective)),
        evpi=_money(known.value),
        evpi_scenarios=known.scenarios,
    )


def _result(built: Built, columns: Columns, found: Found, second: Recourse, figures: PlanFigures) -> PlanResult:
    used = second.use(found.values)
    is_port = columns.slot < 0
    reservations = float((columns.price * found.values)[~is_port].sum())
    porting = float((columns.price * found.values)[is_port].sum())
    reserved_use = sum(each.reserved_cost for each in used)
    on_demand = sum(each.on_demand_cost for each in used)
    costs = PlanCosts(
        total=_money(reservations + porting + reserved_use + on_demand),
        reservations=_money(reservations),
        reserved_use=_money(reserved_use),
        on_demand=_money(on_demand),
        porting=_money(porting),
    )
    return PlanResult(
        currency=built.currency,
        costs=costs,
        figures=figures,
        reservations=tuple(_advice(built, columns, found.values)),
        use=tuple(
            ExpectedUse(
                class_name=each.name,
                provider=built.instance.providers[provider],
                reserved=round(float(use.reserved[place]), 3),
                on_demand=round(float(use.on_demand[place]), 3),
            )
            for each, use in zip(built.instance.classes, used, strict=True)
            for place, provider in enumerate(each.providers)
            if use.reserved[place] > 0 or use.on_demand[place] > 0
        ),
        left_out=built.left_out,
    )


def _advice(built: Built, columns: Columns, chosen: Floats) -> list[ReservationAdvice]:
    made = []
    for at in np.flatnonzero((columns.slot >= 0) & (chosen > 0)):
        number, place = int(columns.of_class[at]), int(columns.slot[at])
        each = built.instance.classes[number]
        slot, terms = each.slots[place], built.terms[number][place]
        made.append(
            ReservationAdvice(
                class_name=each.name,
                provider=built.instance.providers[each.providers[slot.provider]],
                instance_type=built.types[number][slot.provider].name,
                from_month=int(columns.start[at]) + 1,
                months=terms.months,
                vms=round(float(chosen[at])),
                upfront_each=terms.upfront,
                price_per_month=terms.price_per_month,
            )
        )
    return sorted(made, key=lambda one: (one.class_name, one.from_month, one.provider, one.months))


def _moves(built: Built, columns: Columns, found: Found) -> tuple[Move, ...]:
    made = []
    for number, each in enumerate(built.instance.classes):
        left = [list(vms) for vms in built.vms[number]]
        for source, target in moves_of(columns, number, found.values):
            recipient = built.instance.providers[each.providers[target]]
            made.append(Move(vm_uuid=left[source].pop(0), recipient=recipient))
    return tuple(made)


def _money(hundredths: float) -> Decimal:
    return (Decimal(round(hundredths)) / 100).quantize(Decimal("0.01"))
