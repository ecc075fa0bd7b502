"""Rates of exchange: which one is used, and which is too old."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.costs.exchange import Money, Rate, Rates, cents

TODAY = date(2026, 3, 1)


def rate(base: str, quote: str, worth: str, *, days_ago: int = 0) -> Rate:
    """A rate of some days ago."""
    return Rate(base=base, quote=quote, rate=Decimal(worth), as_of=TODAY - timedelta(days=days_ago))


def converted(rates: Rates, amount: str, source: str, target: str) -> Decimal | None:
    """In cents; None where there is no rate."""
    found = rates.convert(Money(Decimal(amount), source), target, TODAY)
    return cents(found.amount) if found is not None else None


def test_one_rate_serves_both_ways() -> None:
    """A rate from USD to EUR is also one from EUR to USD."""
    rates = Rates(table=(rate("USD", "EUR", "0.8"),))
    assert converted(rates, "10.00", "USD", "EUR") == Decimal("8.00")
    assert converted(rates, "10.00", "EUR", "USD") == Decimal("12.50")


def test_no_chain_of_rates() -> None:
    """What two rates together would give is not what anybody has quoted."""
    rates = Rates(table=(rate("USD", "EUR", "0.8"), rate("EUR", "CHF", "0.9")))
    assert converted(rates, "10.00", "USD", "CHF") is None


@pytest.mark.parametrize(("days_ago", "holds"), [(-2, False), (-1, True), (0, True), (7, True), (8, False)])
def test_a_rate_holds_for_its_days(days_ago: int, *, holds: bool) -> None:
    """Too old is not used, nor is one of the day after tomorrow."""
    rates = Rates(table=(rate("USD", "EUR", "0.8", days_ago=days_ago),), hold_days=7)
    assert (converted(rates, "1.00", "USD", "EUR") is not None) is holds


def test_the_newest_rate_is_used() -> None:
    """Whichever way round it stands; of one day the one that leads forwards."""
    rates = Rates(table=(rate("USD", "EUR", "0.5", days_ago=1), rate("EUR", "USD", "4"), rate("USD", "EUR", "0.8")))
    assert converted(rates, "10.00", "USD", "EUR") == Decimal("8.00")
    assert converted(rates, "10.00", "EUR", "USD") == Decimal("40.00")


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=6))
def test_the_same_currency_needs_no_rate(amount: Decimal) -> None:
    """And nothing is changed."""
    found = Rates().convert(Money(amount, "EUR"), "EUR", TODAY)
    assert found is not None
    assert (found.amount, found.rate) == (amount, None)


def test_half_a_cent_is_rounded_up() -> None:
    """As a bill does it, in both directions."""
    assert [cents(Decimal(text)) for text in ("0.005", "0.015", "-0.005")] == [
        Decimal("0.01"),
        Decimal("0.02"),
        Decimal("-0.01"),
    ]
