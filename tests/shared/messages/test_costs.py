"""Messages about money: what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from shared.messages.costs import CostKind, CostLine, Costs, EgressTariff, SwitchingCharge


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        (CostLine, {"kind": "price", "amount": "1.001"}),
        (CostLine, {"kind": "price", "amount": "NaN"}),
        (CostLine, {"kind": "bribe", "amount": "1.00"}),
        (EgressTariff, {"free_bytes": -1}),
        (EgressTariff, {"tiers": [{"up_to_bytes": 1, "price_per_gb": "1"}]}),
        (SwitchingCharge, {"regime": "eu", "rule": "free", "valid_from": "2026-02-01", "valid_until": "2026-01-01"}),
        (Costs, {"currency": "EUR", "horizon_months": 0, "lines": [], "total": "0"}),
    ],
)
def test_what_is_no_money_is_refused(model: type[BaseModel], facts: dict[str, Any]) -> None:
    """Parts of a cent, what is no number, and a table with holes."""
    with pytest.raises(ValidationError):
        model.model_validate(facts)


def test_a_line_by_its_kind() -> None:
    """None where there is none."""
    line = CostLine(kind=CostKind.PRICE, amount="12.00")
    costs = Costs(currency="EUR", horizon_months=1, lines=(line,), total="12.00")
    assert costs.line(CostKind.PRICE) == line
    assert costs.line(CostKind.EGRESS) is None
    assert Costs.model_validate_json(costs.model_dump_json()) == costs
