"""From a demand to a plan, as the worker process does it."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from services.broker.placement.task import Solved, Task, solve
from shared.messages.catalogue import TenantLimits
from shared.messages.demand import DemandClass, Fixed, PortingCost, PriceStep
from tests.support.placement_samples import demand, price_list

VMS = tuple(UUID(int=number) for number in range(1, 5))
LISTS = {"alpha": price_list("62.00"), "beta": price_list("60.00"), "gamma": price_list("70.00", reserved=False)}
AT = dict.fromkeys(VMS, "gamma")
DOUBLE = (PriceStep(factor=Decimal(1), probability=0.9), PriceStep(factor=Decimal(2), probability=0.1))


def solved(*vms: UUID, lists: object = None, **more: object) -> Solved:
    task = Task.model_validate({"demand": demand(*vms, **more), "catalogues": lists or LISTS, "at": AT})
    return solve(task, elapsed_s=lambda: 0.0)


def test_a_plan() -> None:
    """What to reserve where, what it costs, how good that is; and which VMs move there."""
    found = solved(*VMS, prices=DOUBLE, porting=PortingCost(per_vm=Decimal("1.00")))
    assert found.failure == ""
    assert found.result is not None
    costs, figures = found.result.costs, found.result.figures
    parts = costs.reservations + costs.reserved_use + costs.on_demand + costs.porting
    assert abs(costs.total - parts) <= Decimal("0.03")
    assert [(each.provider, each.months, each.from_month) for each in found.result.reservations] == [("beta", 12, 1)]
    assert {(move.vm_uuid, move.recipient) for move in found.moves} == {(vm, "beta") for vm in VMS}
    assert costs.porting == Decimal("4.00")
    assert costs.total < figures.mean_value + Decimal("0.01")
    assert figures.mean_value < figures.most_reserved < figures.none_reserved
    assert figures.lower_bound <= costs.total + Decimal("0.01")
    assert figures.evpi > 0
    assert figures.worst > costs.total


def test_moves_that_cost_too_much_are_not_made() -> None:
    """The plan knows where VMs are today."""
    assert solved(*VMS, porting=PortingCost(per_vm=Decimal(5000))).moves == ()


def test_a_limit_that_binds() -> None:
    """Beta takes three VMs of one tenant; the others go elsewhere."""
    lists = LISTS | {"beta": price_list("60.00", per_tenant=TenantLimits(vms=3))}
    found = solved(*VMS, lists=lists, scenarios=8, horizon_months=12)
    assert found.result is not None
    assert "programs per scenario" in found.result.figures.method
    assert sum(each.vms for each in found.result.reservations if each.provider == "beta") <= 3
    assert any(each.provider == "alpha" for each in found.result.reservations)


def test_a_demand_that_fits_nowhere() -> None:
    """Class and number are named."""
    limited = {"alpha": price_list(per_tenant=TenantLimits(vms=3))}
    web = DemandClass(name="web", vcpus=1, memory_mib=1024, disk_gib=10, demand=Fixed(distribution="fixed", vms=5))
    found = solved(lists=limited, classes=(web,), scenarios=2)
    assert found.result is None
    assert found.failure.startswith("classes.web.demand: in the worst scenario 2 VMs fit at no provider within")


def test_a_problem_is_told() -> None:
    """Not raised: the broker stores it with the plan."""
    assert solved(providers=("nowhere",)).failure.startswith("providers: 'nowhere'")


def test_a_weight_on_the_worst() -> None:
    """It costs more in the mean, and less in the worst."""
    plain, careful = (solved(prices=DOUBLE, risk=risk).result for risk in (0.0, 1.0))
    assert plain is not None
    assert careful is not None
    assert careful.figures.worst <= plain.figures.worst
    assert careful.costs.total >= plain.costs.total
    assert "CVaR 0.95 weighs 1" in careful.figures.method
