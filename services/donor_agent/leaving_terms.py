"""What this provider asks of a VM that leaves: settings, and the terms that are made of them. Pure values."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.config import BadKey, Section
from shared.currencies import KnownCurrency
from shared.messages.base import Price
from shared.messages.costs import (
    GB,
    MAX_TIERS,
    EgressTariff,
    EgressTier,
    EnergyModel,
    EnergyTerms,
    LeavingTerms,
    UnitPrice,
)

Gigabytes = Annotated[Decimal, Field(ge=0, le=10**9, max_digits=18, decimal_places=9)]


class EgressTierSection(Section):
    """A price per GB, and up to where it holds."""

    up_to_gb: Gigabytes | None = Field(
        default=None, description="Counted from the month's first byte, GB of 10^9 bytes; the last tier has none."
    )
    price_per_gb: UnitPrice = Field(description="Price of a GB.", examples=["0.09"])


class LeavingSection(Section):
    """What this provider asks of a VM that leaves by a port. A tenant sees it in its quote, and in its bill."""

    currency: KnownCurrency = Field(default="EUR", description="ISO 4217 code of all amounts here.")
    fee: Price = Field(default=Decimal(0), description="For each port.")
    fee_cost: Price | None = Field(
        default=None,
        description="What a port costs this provider itself; a rule may limit the fee to it.",
        examples=["1.50"],
    )
    egress_is_free: bool = Field(
        default=False, description="Bytes that leave cost nothing. Without it and without tiers no price is stated."
    )
    egress_free_gb: Gigabytes = Field(default=Decimal(0), description="The month's allowance; it is taken as unused.")
    egress_cost_per_gb: UnitPrice | None = Field(
        default=None,
        description="What a GB costs this provider itself; a rule may limit the charge to it.",
        examples=["0.01"],
    )
    energy_price_per_kwh: UnitPrice | None = Field(
        default=None, description="What is charged for the port's energy; unset: nothing.", examples=["0.30"]
    )
    egress_tiers: tuple[EgressTierSection, ...] = Field(
        default=(), max_length=MAX_TIERS, description="What bytes cost beyond the allowance."
    )

    @model_validator(mode="after")
    def _one_tariff(self) -> Self:
        if self.egress_is_free and self.egress_tiers:
            raise BadKey("egress_is_free", "egress is free or has tiers, not both")
        try:
            self._tariff()
        except ValueError as error:
            raise BadKey("egress_tiers", _first_line(error)) from error
        return self

    def _tariff(self) -> EgressTariff | None:
        if not self.egress_is_free and not self.egress_tiers:
            return None
        tiers = tuple(
            EgressTier(
                up_to_bytes=int(tier.up_to_gb * GB) if tier.up_to_gb is not None else None,
                price_per_gb=tier.price_per_gb,
            )
            for tier in self.egress_tiers
        )
        return EgressTariff(free_bytes=int(self.egress_free_gb * GB), tiers=tiers, cost_per_gb=self.egress_cost_per_gb)

    def terms(self, energy: EnergyModel | None, price_per_month: Price | None) -> LeavingTerms:
        """For one VM on a host with this energy model; the price is what its tenant pays now."""
        return LeavingTerms(
            currency=self.currency,
            fee=self.fee,
            fee_cost=self.fee_cost,
            egress=self._tariff(),
            energy=EnergyTerms(model=energy, price_per_kwh=self.energy_price_per_kwh) if energy is not None else None,
            price_per_month=price_per_month,
        )


def _first_line(error: ValueError) -> str:
    """Pydantic's own words come after the sentence."""
    text = str(error)
    found = [line.strip() for line in text.splitlines() if "must" in line]
    return (found[0] if found else text).removeprefix("Value error, ").partition(" [type=")[0]
