"""The broker's settings about money: rates of exchange, switching charges, broken promises. Pure values."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from services.broker.costs.basis import Basis
from services.broker.costs.exchange import Rate, Rates
from shared.config import BadKey, Section
from shared.currencies import KnownCurrency
from shared.messages.costs import Percent, SwitchingCharge, SwitchingRule
from shared.parties import Name


class ExchangeRate(Section):
    """One rate, with the day that it is of."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    base: KnownCurrency = Field(alias="from", description="ISO 4217 code.", examples=["USD"])
    quote: KnownCurrency = Field(alias="to", description="ISO 4217 code.", examples=["EUR"])
    rate: Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=8)] = Field(
        description="How much of the second one unit of the first is worth.", examples=["0.92"]
    )
    as_of: date = Field(description="The day of the rate.", examples=["2026-11-30"])

    @model_validator(mode="after")
    def _two_currencies(self) -> Self:
        if self.base == self.quote:
            raise BadKey("to", f"from and to are both {self.base}")
        return self

    def pure(self) -> Rate:
        """For the costs."""
        return Rate(base=self.base, quote=self.quote, rate=self.rate, as_of=self.as_of)


class SwitchingChargeRow(Section):
    """From when until when donors may charge how much for a VM that leaves."""

    regime: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = Field(
        description="Whose rule it is.", examples=["eu-data-act"]
    )
    rule: SwitchingRule = Field(
        description="banned: nothing, by law; at_cost: at most what it costs the donor itself; free: waived.",
        examples=["banned"],
    )
    valid_from: date = Field(description="The first day, UTC.", examples=["2027-01-12"])
    valid_until: date | None = Field(default=None, description="The last day; unset: it still holds.")
    donors: tuple[Name, ...] = Field(default=(), max_length=1024, description="Whom it binds; empty: every donor.")
    clause: Annotated[str, Field(max_length=400)] = Field(default="", description="Where it is written.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.valid_until is not None and self.valid_until < self.valid_from:
            raise BadKey("valid_until", "valid_until must not be before valid_from")
        return self

    def pure(self) -> SwitchingCharge:
        """For the costs."""
        return SwitchingCharge(**self.model_dump())


class BrokerSection(Section):
    """How offers are compared."""

    exchange_rates: tuple[ExchangeRate, ...] = Field(
        default=(),
        max_length=4096,
        description="Rates by which offers in different currencies are compared; one serves both ways. The newest of a "
        "pair is used. Offers between which no rate leads are not compared.",
    )
    exchange_rates_hold_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        default=7, description="A rate that is older is not used."
    )
    switching_charges: tuple[SwitchingChargeRow, ...] = Field(
        default=(), max_length=1024, description="Rules that limit what donors may charge for leaving: fee and egress."
    )
    broken_promise_percent: Percent = Field(
        default=Decimal(10),
        description="Of a month's price: what a broken promise counts when offers are compared, times the probability "
        "that the provider's record gives. 0: the record decides only between offers of equal cost.",
    )

    @model_validator(mode="after")
    def _one_rate_per_day(self) -> Self:
        seen: set[tuple[frozenset[str], date]] = set()
        for number, row in enumerate(self.exchange_rates, start=1):
            key = frozenset({row.base, row.quote}), row.as_of
            if key in seen:
                pair = f"{row.base} and {row.quote}"
                raise BadKey("exchange_rates", f"rate {number}: {pair} have a rate of {row.as_of} already")
            seen.add(key)
        return self

    def basis(self) -> Basis:
        """What the settings say of money."""
        return Basis(
            rates=Rates(
                table=tuple(row.pure() for row in self.exchange_rates), hold_days=self.exchange_rates_hold_days
            ),
            switching=tuple(row.pure() for row in self.switching_charges),
            broken_promise_percent=self.broken_promise_percent,
        )
