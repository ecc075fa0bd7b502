"""From a demand and price lists to numbers; and what is wrong is named by key and reason."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.broker.placement.instance import PlanProblem, build
from services.broker.placement.model import Slot
from shared.messages.catalogue import Catalogue, OfferedType, TenantLimits
from shared.messages.demand import PortingCost
from tests.support.placement_samples import demand, price_list

VM = UUID(int=5)
LISTS = {"alpha": price_list("60.00"), "beta": price_list("50.05", reserved=False)}


def test_numbers() -> None:
    """Prices in hundredths; a move costs by the VM and by the GiB."""
    asked = demand(VM, porting=PortingCost(per_vm=Decimal("1.00"), per_gib=Decimal("0.09")))
    built = build(asked, LISTS, {VM: "beta"})
    (web,) = built.instance.classes
    assert (built.currency, built.instance.providers, web.on_demand) == ("EUR", ("alpha", "beta"), (6000, 5005))
    assert web.slots == (Slot(0, 12, 18000, 2100),)
    assert (web.today, web.porting) == ((0, 1), 100 + 99)
    assert built.vms == (((), (VM,)),)
    assert not built.instance.has_limits


def test_the_cheapest_type_that_fits() -> None:
    """As in a quote; a contract that is longer than the horizon is none."""
    small = price_list("60.00").types[0]
    other = small.model_copy(
        update={"name": "medium", "memory_mib": 4096, "price_per_month": Decimal(55), "reservations": ()}
    )
    built = build(demand(horizon_months=6), {"alpha": Catalogue(types=(small, other)), "beta": price_list()}, {})
    assert [offered.name for offered in built.types[0]] == ["medium", "small"]
    assert built.instance.classes[0].slots == ()


def test_limits_of_a_tenant() -> None:
    """Zero is none."""
    lists = {"alpha": price_list(per_tenant=TenantLimits(vms=3, memory_mib=8192))}
    built = build(demand(), lists, {})
    assert built.instance.limits == ((3.0, float("inf"), 8192.0, float("inf")),)
    assert built.instance.classes[0].needs == (1.0, 1.0, 1024.0, 10.0)


def test_other_currencies_are_left_out_and_said_to_be() -> None:
    """None is converted."""
    lists = LISTS | {"gamma": price_list(currency="USD")}
    built = build(demand(currency="EUR"), lists, {})
    assert [(one.provider, one.reason) for one in built.left_out] == [("gamma", "its prices are in USD, not in EUR")]


BIG = OfferedType(name="nano", vcpus=1, memory_mib=512, disk_gib=1, price_per_month=Decimal(1), currency="EUR")


@pytest.mark.parametrize(
    ("asked", "lists", "said"),
    [
        (demand(), {}, "providers: no provider has told a price list yet"),
        (demand(providers=("nowhere",)), LISTS, "providers: 'nowhere' has told no price list; known: alpha, beta"),
        (demand(), LISTS | {"gamma": price_list(currency="USD")}, "currency: give one, since offers are not in one"),
        (demand(), {"alpha": Catalogue(types=(BIG,))}, "classes.web: no provider can take such a VM: alpha: no type"),
        (demand(VM), LISTS, f"classes.web.vms: VM {VM} runs at no provider: has told no price list"),
        (demand(VM, providers=("alpha",)), LISTS, f"classes.web.vms: VM {VM} runs at beta: is not one of the plan's"),
    ],
)
def test_what_is_wrong(asked: Any, lists: dict[str, Catalogue], said: str) -> None:
    """Key and reason."""
    at = {VM: "beta"} if asked.providers else {}
    with pytest.raises(PlanProblem) as caught:
        build(asked, lists, at)
    assert str(caught.value).startswith(said)
