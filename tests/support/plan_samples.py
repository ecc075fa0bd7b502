"""Plans as a broker shows them, for tests of the command line."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from shared.messages.plans import MoveState, PlanResult, PlanShown, PlanState
from tests.support.scripted_broker import NOW, SHOP, WEB

PLAN = UUID("cccc1111-0000-4000-8000-000000000001")
RESULT = PlanResult.model_validate(
    {
        "currency": "EUR",
        "costs": {
            "total": "17691.03", "reservations": "7200.00", "reserved_use": "8355.73", "on_demand": "2119.38",
            "porting": "15.92",
        },
        "figures": {
            "method": "L-shaped, second stage by closed form", "scenarios": 250, "iterations": 11,
            "lower_bound": "17691.03", "gap": 0.0, "sample_low": "17634.31", "sample_high": "17732.81",
            "worst": "19788.48", "mean_value": "17760.77", "most_reserved": "20988.67", "none_reserved": "26711.00",
            "vss": "69.74", "evpi": "185.63", "evpi_scenarios": 40,
        },
        "reservations": [
            {
                "class_name": "web", "provider": "beta", "instance_type": "small", "from_month": 1, "months": 12,
                "vms": 27, "upfront_each": "180.00", "price_per_month": "21.00",
            }
        ],
        "use": [{"class_name": "web", "provider": "beta", "reserved": 24.0, "on_demand": 1.361}],
        "left_out": [{"class_name": "web", "provider": "gamma", "reason": "its prices are in USD, not in \x1b[31mEUR"}],
    }
)  # fmt: skip


def shown_plan(state: PlanState = PlanState.READY, *moves: MoveState, **more: Any) -> PlanShown:
    """A plan that moves web and shop from alpha to beta."""
    states = moves or (MoveState.WAITING, MoveState.WAITING)
    summary = {
        "plan_id": PLAN,
        "name": "spring",
        "state": state,
        "moves": len(states),
        "completed": states.count(MoveState.COMPLETED),
        "not_completed": sum(one in {MoveState.FAILED, MoveState.REFUSED, MoveState.CANCELLED} for one in states),
        "created_at": NOW,
        "updated_at": NOW,
    }
    made = [
        {
            "vm_uuid": vm.uuid,
            "vm_name": vm.name,
            "donor": "alpha",
            "recipient": "beta",
            "state": one,
            "detail": "no room" if one is MoveState.FAILED else "",
        }
        for vm, one in zip((WEB, SHOP), states, strict=True)
    ]
    return PlanShown.model_validate({"summary": summary, "moves": made, **more})
