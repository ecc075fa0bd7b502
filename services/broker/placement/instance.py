"""Makes an instance of the placement problem out of a demand, price lists, and where VMs run now. Pure.

A VM of a class is billed at a provider as the cheapest type on demand that it fits, as in the provider's own quotes.
Prices become whole hundredths. Currencies are not converted: an offer in another one is left out, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

import numpy as np

from services.broker.placement.model import Instance, Slot, VmClass
from shared.errors import VmportError
from shared.messages.catalogue import Catalogue, OfferedType, ReservationTerms, TenantLimits
from shared.messages.demand import Demand, DemandClass
from shared.messages.plans import LeftOut
from shared.parties import Name

SCALE = 100
MIB_PER_GIB = 1024


class PlanProblem(VmportError):
    """There is no plan; the text names the key of the demand, and the reason."""

    code = "infeasible"


@dataclass(frozen=True)
class Built:
    """The instance, and what its numbers stand for."""

    instance: Instance
    currency: str
    types: tuple[tuple[OfferedType, ...], ...]
    """Per class, by place in its providers."""
    terms: tuple[tuple[ReservationTerms, ...], ...]
    """Per class, by slot."""
    vms: tuple[tuple[tuple[UUID, ...], ...], ...]
    """Per class and place, VMs that run there now."""
    left_out: tuple[LeftOut, ...]


def build(demand: Demand, catalogues: Mapping[Name, Catalogue], at: Mapping[UUID, Name]) -> Built:
    """The instance; raises `PlanProblem`."""
    names = tuple(sorted(catalogues))
    unknown = [name for name in demand.providers if name not in catalogues]
    if unknown:
        listed = ", ".join(names) or "none"
        raise PlanProblem(f"providers: {unknown[0]!r} has told no price list; known: {listed}")
    if not names:
        raise PlanProblem("providers: no provider has told a price list yet")
    currency = demand.currency or _only_currency(catalogues, demand.providers or names)
    left_out: list[LeftOut] = []
    rows = []
    for each in demand.classes:
        offers = {}
        for name in demand.providers or names:
            found = _offer(each, catalogues[name], currency)
            if isinstance(found, str):
                left_out.append(LeftOut(class_name=each.name, provider=name, reason=found))
            else:
                offers[name] = found
        rows.append(_class(each, demand, offers=offers, names=names, at=at, left_out=left_out))
    instance = Instance(
        horizon=demand.horizon_months,
        classes=tuple(row[0] for row in rows),
        providers=names,
        scale=SCALE,
        limits=tuple(_limits(catalogues[name].per_tenant) for name in names),
    )
    return Built(
        instance,
        currency,
        types=tuple(row[1] for row in rows),
        terms=tuple(row[2] for row in rows),
        vms=tuple(row[3] for row in rows),
        left_out=tuple(left_out),
    )


def _only_currency(catalogues: Mapping[Name, Catalogue], names: tuple[Name, ...]) -> str:
    found = sorted({each.currency for name in names for each in catalogues[name].types})
    if len(found) == 1:
        return found[0]
    listed = ", ".join(found) or "nothing is offered"
    raise PlanProblem(f"currency: give one, since offers are not in one currency, and none is converted: {listed}")


def _offer(each: DemandClass, catalogue: Catalogue, currency: str) -> OfferedType | str:
    """The cheapest type that fits, or why there is none."""
    fitting = [
        offered
        for offered in catalogue.types
        if each.vcpus <= offered.vcpus and each.memory_mib <= offered.memory_mib and each.disk_gib <= offered.disk_gib
    ]
    if not fitting:
        return "no type of its price list is large enough"
    mine = [offered for offered in fitting if offered.currency == currency]
    if not mine:
        return f"its prices are in {', '.join(sorted({offered.currency for offered in fitting}))}, not in {currency}"
    return min(mine, key=lambda offered: (offered.price_per_month, offered.name))


_Row = tuple[VmClass, tuple[OfferedType, ...], tuple[ReservationTerms, ...], tuple[tuple[UUID, ...], ...]]


def _class(
    each: DemandClass,
    demand: Demand,
    *,
    offers: Mapping[Name, OfferedType],
    names: tuple[Name, ...],
    at: Mapping[UUID, Name],
    left_out: list[LeftOut],
) -> _Row:
    if not offers:
        reasons = "; ".join(f"{one.provider}: {one.reason}" for one in left_out if one.class_name == each.name)
        raise PlanProblem(f"classes.{each.name}: no provider can take such a VM: {reasons}")
    places = tuple(offers)
    running: dict[Name, list[UUID]] = {name: [] for name in places}
    for uuid in each.vms:
        provider = at.get(uuid)
        if provider not in running:
            why = "is not one of the plan's providers" if provider in names else "has told no price list"
            reason = next(
                (one.reason for one in left_out if (one.class_name, one.provider) == (each.name, provider)), why
            )
            raise PlanProblem(f"classes.{each.name}.vms: VM {uuid} runs at {provider or 'no provider'}: {reason}")
        running[provider].append(uuid)
    slots = sorted(
        (
            (Slot(place, terms.months, _whole(terms.upfront), _whole(terms.price_per_month)), terms)
            for place, name in enumerate(places)
            for terms in offers[name].reservations
            if terms.months <= demand.horizon_months
        ),
        key=lambda pair: pair[0].use,
    )
    gib = Decimal(each.memory_mib) / MIB_PER_GIB + each.disk_gib
    made = VmClass(
        name=each.name,
        providers=tuple(names.index(name) for name in places),
        on_demand=tuple(_whole(offers[name].price_per_month) for name in places),
        slots=tuple(slot for slot, _ in slots),
        today=tuple(len(running[name]) for name in places),
        porting=_whole(demand.porting.per_vm + demand.porting.per_gib * gib),
        needs=(1.0, float(each.vcpus), float(each.memory_mib), float(each.disk_gib)),
    )
    types = tuple(offers[name] for name in places)
    return made, types, tuple(terms for _, terms in slots), tuple(tuple(running[name]) for name in places)


def _limits(limits: TenantLimits) -> tuple[float, ...]:
    stated = (limits.vms, limits.vcpus, limits.memory_mib, limits.disk_gib)
    return tuple(float(limit) if limit else np.inf for limit in stated)


def _whole(price: Decimal) -> int:
    return int((price * SCALE).quantize(Decimal(1), ROUND_HALF_UP))
