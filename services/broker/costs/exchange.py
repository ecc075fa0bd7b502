"""Rates of exchange: data with a date. What is too old, or not there, is not used; nothing is looked up. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated

from pydantic import Field

from shared.messages.base import Value
from shared.messages.costs import Currency

CENT = Decimal("0.01")
ONE_DAY = timedelta(days=1)
"""A rate of tomorrow is one of today in another time zone."""


def cents(amount: Decimal) -> Decimal:
    """Rounded to the cent, half up; never a negative nothing."""
    return amount.quantize(CENT, ROUND_HALF_UP) + 0


@dataclass(frozen=True, slots=True)
class Money:
    """An amount that is not rounded yet."""

    amount: Decimal
    currency: str


class Rate(Value):
    """One unit of ``base`` is worth ``rate`` units of ``quote``."""

    base: Currency
    quote: Currency
    rate: Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=8)]
    as_of: date

    def __str__(self) -> str:
        return f"{self.rate.normalize():f} {self.quote} per {self.base} of {self.as_of}"


@dataclass(frozen=True, slots=True)
class Converted:
    """An amount in the currency that was asked for, not rounded; ``rate`` is the one that was used, if any was."""

    amount: Decimal
    rate: Rate | None


class Rates(Value):
    """The table of rates, and for how many days one holds."""

    table: Annotated[tuple[Rate, ...], Field(max_length=4096)] = ()
    hold_days: Annotated[int, Field(ge=0, le=3650)] = 7

    def convert(self, money: Money, currency: str, today: date) -> Converted | None:
        """In another currency; None where no rate that holds leads there. The newest rate, either way round."""
        if money.currency == currency:
            return Converted(money.amount, None)
        found = [
            rate
            for rate in self.table
            if {rate.base, rate.quote} == {money.currency, currency} and self._holds(rate, today)
        ]
        if not found:
            return None
        rate = max(found, key=lambda each: (each.as_of, each.base == money.currency))
        forwards = rate.base == money.currency
        return Converted(money.amount * rate.rate if forwards else money.amount / rate.rate, rate)

    def _holds(self, rate: Rate, today: date) -> bool:
        return timedelta(days=-self.hold_days) <= rate.as_of - today <= ONE_DAY
