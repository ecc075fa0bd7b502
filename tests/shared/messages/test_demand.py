"""A demand: what is none is refused, by key and reason."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from shared.messages.demand import MAX_VMS, Demand
from tests.support.placement_samples import demand

WEB = demand().classes[0].model_dump()
VM, VM2 = UUID(int=1), UUID(int=9999)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"horizon_months": 0}, "greater than or equal to 1"),
        ({"classes": ()}, "classes: there is none"),
        ({"classes": (WEB, WEB)}, "each name stands once"),
        ({"classes": (WEB | {"vms": (VM, VM)},)}, "stands there once"),
        ({"classes": (WEB | {"vms": [UUID(int=n) for n in range(MAX_VMS)]}, WEB | {"name": "b", "vms": (VM2,)})},
         "1001 VMs; at most 1000"),
        ({"prices": ({"factor": "2", "probability": 0.5},)}, "add up to 0.5, not to 1"),
        ({"porting": {"per_vm": "-1"}}, "greater than or equal to 0"),
        ({"risk": 2}, "less than or equal to 1"),
        ({"classes": (WEB | {"demand": {"distribution": "uniform", "least": 5, "most": 2}},)}, "least is 5, more than"),
        ({"classes": (WEB | {"demand": {"distribution": "normal", "mean": 5, "variance": 1, "least": 9, "most": 2}},)},
         "least is 9, more than"),
        ({"classes": (WEB | {"demand": {"distribution": "listed", "values": [1], "weights": [1, 2]}},)},
         "2 weights for 1 values"),
        ({"classes": (WEB | {"demand": {"distribution": "listed", "values": [1], "weights": [0]}},)},
         "at least one weight"),
        ({"classes": (WEB | {"demand": {"distribution": "listed", "values": []}},)}, "values: there is none"),
        ({"classes": (WEB | {"demand": {"distribution": "magic"}},)}, "does not match any of the expected tags"),
    ],
)  # fmt: skip
def test_what_is_wrong(change: dict[str, Any], said: str) -> None:
    """Each with its reason."""
    with pytest.raises(ValidationError, match=said):
        Demand.model_validate(demand().model_dump() | change)
