"""Small random instances of the placement problem, and demands with price lists."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from services.broker.placement.model import Instance, Scenarios, Slot, VmClass
from shared.messages.catalogue import Catalogue, OfferedType, ReservationTerms, TenantLimits
from shared.messages.demand import Demand, DemandClass, Uniform


def instance(
    random: np.random.Generator,
    *,
    providers: int = 3,
    classes: int = 2,
    horizon: int = 3,
    contracts: tuple[int, ...] = (1, 2, 3),
    running: bool = False,
    limits: bool = False,
) -> Instance:
    """Prices around 10.00 a month; a reserved month costs a fifth to a half of that, and so does the reservation."""

    def one(name: str) -> VmClass:
        prices = [int(price) for price in random.integers(800, 1500, providers)]
        slots = [
            Slot(
                place,
                months,
                int(prices[place] * months * random.uniform(0.2, 0.5)),
                int(prices[place] * random.uniform(0.2, 0.5)),
            )
            for place in range(providers)
            for months in contracts
            if months <= horizon
        ]
        return VmClass(
            name=name,
            providers=tuple(range(providers)),
            on_demand=tuple(prices),
            slots=tuple(sorted(slots, key=lambda slot: slot.use)),
            today=tuple(int(count) for count in random.integers(0, 4, providers)) if running else (0,) * providers,
            porting=int(random.integers(0, 1500)),
            needs=(1.0, float(random.integers(1, 5))),
        )

    made = tuple(one(f"class-{number}") for number in range(classes))
    stated = tuple((float(random.integers(4, 9) * classes), np.inf) for _ in range(providers)) if limits else ()
    return Instance(horizon, made, tuple(f"provider-{number}" for number in range(providers)), 100, stated)


def scenarios(random: np.random.Generator, given: Instance, count: int, *, least: int = 0, most: int = 8) -> Scenarios:
    """Uniform demand; each price on demand doubles one time in ten."""
    shape = (count, given.horizon)
    return Scenarios(
        random.integers(least, most + 1, (*shape, len(given.classes))).astype(np.float64),
        np.where(random.random((*shape, len(given.providers))) < 0.1, 2.0, 1.0),
    )


def price_list(
    price: str = "60.00", *, currency: str = "EUR", reserved: bool = True, per_tenant: TenantLimits | None = None
) -> Catalogue:
    """One type, small; a year costs three months once, and then 35 % of each month."""
    amount = Decimal(price)
    terms = ReservationTerms(
        months=12, upfront=3 * amount, price_per_month=(amount * Decimal("0.35")).quantize(Decimal("0.01"))
    )
    offered = OfferedType(
        name="small",
        vcpus=1,
        memory_mib=2048,
        disk_gib=40,
        price_per_month=amount,
        currency=currency,
        reservations=(terms,) if reserved else (),
    )
    return Catalogue(types=(offered,), per_tenant=per_tenant or TenantLimits())


def demand(*vms: UUID, **more: Any) -> Demand:
    """One class, 1 to 20 VMs in each of 12 months."""
    web = DemandClass(
        name="web",
        vcpus=1,
        memory_mib=1024,
        disk_gib=10,
        demand=Uniform(distribution="uniform", least=1, most=20),
        vms=vms,
    )
    return Demand(**{"horizon_months": 12, "classes": (web,), "scenarios": 60, **more})
