"""Egress by tiers, and what rules leave of a donor's charges."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.costs.egress import charge_in_force, is_nothing, limited, list_price
from shared.messages.costs import GB, EgressTariff, EgressTier, SwitchingCharge, SwitchingRule

TIERS = (
    EgressTier(up_to_bytes=10_000 * GB, price_per_gb=Decimal("0.09")),
    EgressTier(up_to_bytes=50_000 * GB, price_per_gb=Decimal("0.085")),
    EgressTier(price_per_gb=Decimal("0.07")),
)
TARIFF = EgressTariff(free_bytes=100 * GB, tiers=TIERS)
BANNED = SwitchingCharge(regime="eu", rule=SwitchingRule.BANNED, valid_from=date(2027, 1, 12), clause="29(1)")
AT_COST = SwitchingCharge(
    regime="eu", rule=SwitchingRule.AT_COST, valid_from=date(2024, 1, 11), valid_until=date(2027, 1, 11)
)


@pytest.mark.parametrize(
    ("gigabytes", "price"),
    [
        (0, "0"),
        (100, "0"),
        (101, "0.09"),
        (10_000, "891"),
        (10_001, "891.085"),
        (50_000, "4291"),
        (60_000, "4991"),
    ],
)
def test_tiers_with_an_allowance(gigabytes: int, price: str) -> None:
    """Each GB costs what its own tier says; the first 100 cost nothing. Figures by hand."""
    assert list_price(gigabytes * GB, TARIFF) == Decimal(price)


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_more_bytes_never_cost_less(one: int, other: int) -> None:
    """Also across tiers that get cheaper."""
    less, more = sorted((one, other))
    assert list_price(less, TARIFF) <= list_price(more, TARIFF)


@pytest.mark.parametrize(
    ("day", "rule"),
    [
        (date(2024, 1, 10), None),
        (date(2024, 1, 11), SwitchingRule.AT_COST),
        (date(2027, 1, 11), SwitchingRule.AT_COST),
        (date(2027, 1, 12), SwitchingRule.BANNED),
    ],
)
def test_a_rule_holds_from_its_first_to_its_last_day(day: date, rule: SwitchingRule | None) -> None:
    """The day before, the first, the last, and the day after."""
    found = charge_in_force((AT_COST, BANNED), "alpha", day)
    assert (found.rule if found is not None else None) is rule


def test_the_rule_that_leaves_least_wins() -> None:
    """A waiver does not undo a ban, and a rule binds only the donors that it names."""
    waived = SwitchingCharge(
        regime="own", rule=SwitchingRule.FREE, valid_from=date(2020, 1, 1), donors=("alpha", "beta")
    )
    table = (AT_COST, waived, BANNED)
    assert charge_in_force(table, "alpha", date(2028, 1, 1)) == BANNED
    assert charge_in_force(table, "alpha", date(2025, 1, 1)) == waived
    assert charge_in_force(table, "gamma", date(2025, 1, 1)) == AT_COST


@pytest.mark.parametrize(
    ("rule", "own_cost", "left", "word"),
    [
        (None, None, "5", ""),
        (BANNED, "1", "0", "may not be charged since 2027-01-12 (eu, 29(1))"),
        (AT_COST, "1", "1", "at most its cost (eu)"),
        (AT_COST, "9", "5", "at most its cost (eu)"),
        (AT_COST, None, "5", "at most its cost (eu), which alpha does not state"),
    ],
)
def test_what_a_rule_leaves(rule: SwitchingCharge | None, own_cost: str | None, left: str, word: str) -> None:
    """Nothing by a ban; at most the cost, where it is stated; and the line says why."""
    charge = limited(Decimal(5), Decimal(own_cost) if own_cost else None, rule, "alpha")
    assert (charge.amount, charge.word) == (Decimal(left), word)
    assert is_nothing(rule) is (rule is BANNED)


@pytest.mark.parametrize(
    "tiers",
    [
        [{"up_to_bytes": 5, "price_per_gb": "1"}],
        [{"price_per_gb": "1"}, {"price_per_gb": "2"}],
        [{"up_to_bytes": 5, "price_per_gb": "1"}, {"up_to_bytes": 5, "price_per_gb": "1"}, {"price_per_gb": "2"}],
        [{"price_per_gb": "-1"}],
    ],
)
def test_a_tariff_with_holes_is_refused(tiers: list[dict[str, Any]]) -> None:
    """Bounds rise, and what lies beyond the last has a price."""
    with pytest.raises(ValueError, match=r"up_to_bytes|greater"):
        EgressTariff.model_validate({"tiers": tiers})
