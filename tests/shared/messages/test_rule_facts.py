"""What rules are judged by."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.messages.rule_facts import Charge, DonorFacts, Ground


@pytest.mark.parametrize(
    "fields",
    [
        {"charges": [{"kind": "switching", "amount": "-1.00", "currency": "EUR"}]},
        {"charges": [{"kind": "switching", "amount": "1.005", "currency": "EUR"}]},
        {"charges": [{"kind": "switching", "amount": "1.00", "currency": "euros"}]},
        {"charges": [{"kind": "parking", "amount": "1.00", "currency": "EUR"}]},
        {"minimum_stay_days": -1},
        {"notice_days": 40_000},
        {"demands": ["Not A Code"]},
        {"service": "other"},
        {"unheard_of": 1},
    ],
)
def test_bad_facts(fields: dict[str, object]) -> None:
    """Negative or broken money, unknown kinds, negative days."""
    with pytest.raises(ValidationError):
        DonorFacts.model_validate(fields)


def test_money_is_exact() -> None:
    """Two places, never a float."""
    assert str(Charge(kind="switching", amount="0.10", currency="EUR").amount) == "0.10"


def test_grounds_are_the_codes_of_refusals() -> None:
    """By which a refusal is void."""
    assert Ground("minimum_stay") == "minimum_stay"
