"""What a port costs: the terms of both providers, the lines of a quote, the reasons of the choice, and the bill.

Pure models. Money is a Decimal with two places in a currency of ISO 4217; rates and coefficients have more places. A
line's amount is rounded by itself, half up, and a total is the sum of such lines: it adds up to the cent.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from shared.messages.base import Bytes, Count, Price, Text, Timestamp, Value
from shared.parties import Name

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code.")]
Amount = Annotated[Decimal, Field(max_digits=18, decimal_places=2, allow_inf_nan=False)]
"""Money that may be negative: what somebody gives back."""
UnitPrice = Annotated[Decimal, Field(ge=0, max_digits=16, decimal_places=6)]
Coefficient = Annotated[float, Field(ge=0, le=10**12, allow_inf_nan=False)]
Percent = Annotated[Decimal, Field(ge=0, le=100, max_digits=7, decimal_places=4)]
Horizon = Annotated[int, Field(ge=1, le=120)]
MAX_TIERS = 16
MAX_LINES = 64
MAX_OFFERS = 1024
GB = 10**9


# What the providers ask for


class EgressTier(Value):
    """A price per GB (10^9 bytes), and the month's bytes up to which it holds."""

    up_to_bytes: Bytes | None = Field(default=None, description="Counted from the first byte; None: all beyond.")
    price_per_gb: UnitPrice


class EgressTariff(Value):
    """What bytes that leave a provider cost. The first ``free_bytes`` cost nothing; then each tier in turn."""

    free_bytes: Bytes = Field(default=0, description="The month's allowance; it is taken as unused.")
    tiers: tuple[EgressTier, ...] = Field(default=(), max_length=MAX_TIERS, description="None: egress is free.")
    cost_per_gb: UnitPrice | None = Field(
        default=None, description="What a GB costs the provider itself; a rule may limit the charge to it."
    )

    @model_validator(mode="after")
    def _tiers_rise(self) -> Self:
        bounds = [tier.up_to_bytes for tier in self.tiers]
        if bounds and bounds[-1] is not None:
            raise ValueError("the last tier must have no up_to_bytes: what lies beyond needs a price, too")
        known = [bound for bound in bounds[:-1] if bound is not None]
        if len(known) < len(bounds) - 1 or any(later <= bound for bound, later in pairwise(known)):
            raise ValueError("up_to_bytes must rise from tier to tier; only the last has none")
        return self


class EnergyModel(Value):
    """The energy of a port on one host: ``joules_per_byte`` for each on the wire, ``joules_per_s`` for its time."""

    joules_per_byte: Coefficient
    joules_per_s: Coefficient = 0.0
    measured_at: Timestamp | None = Field(default=None, description="None: an estimate, not measured on this host.")


class EnergyTerms(Value):
    """The energy model of the host that takes part, and what the provider charges for energy."""

    model: EnergyModel
    price_per_kwh: UnitPrice | None = Field(default=None, description="None: it is not charged, only stated.")


class LeavingTerms(Value):
    """What the donor asks of a VM that leaves, all in ``currency``."""

    currency: Currency = "EUR"
    fee: Price = Decimal(0)
    fee_cost: Price | None = Field(
        default=None, description="What a port costs the donor itself; a rule may limit its fee to it."
    )
    egress: EgressTariff | None = Field(default=None, description="None: the donor does not say.")
    energy: EnergyTerms | None = Field(default=None, description="None: the donor does not state it.")
    price_per_month: Price | None = Field(default=None, description="What the tenant pays for this VM now.")


class JoiningTerms(Value):
    """What the recipient asks of a VM that comes, beside its price; all in the quote's currency."""

    fee: Price = Decimal(0)
    credit_percent: Percent = Field(
        default=Decimal(0), description="Of a month's price, given back where the port's promise is not kept."
    )
    energy: EnergyTerms | None = Field(default=None, description="None: the recipient does not state it.")


class SwitchingRule(StrEnum):
    """What a donor may charge a tenant for leaving: its leaving fee and egress."""

    BANNED = "banned"
    """Nothing, by law."""
    AT_COST = "at_cost"
    """At most what it costs the donor itself."""
    FREE = "free"
    """Nothing, since the donor has waived it."""


class SwitchingCharge(Value):
    """One row of the table of switching charges: from when until when a donor may charge how much."""

    regime: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    rule: SwitchingRule
    valid_from: date = Field(description="The first day, UTC.")
    valid_until: date | None = Field(default=None, description="The last day; None: it still holds.")
    donors: tuple[Name, ...] = Field(default=(), max_length=1024, description="Whom it binds; empty: every donor.")
    clause: Text = Field(default="", description="Where it is written.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.valid_until is not None and self.valid_until < self.valid_from:
            raise ValueError("valid_until must not be before valid_from")
        return self


# Lines


class CostKind(StrEnum):
    """What a line is about. Each stands at most once in a quote's costs, but ``credit`` in a bill."""

    PRICE = "price"
    LEAVING_FEE = "leaving_fee"
    JOINING_FEE = "joining_fee"
    EGRESS = "egress"
    ADDRESSES = "addresses"
    """The price for addresses that are kept."""
    DOWNTIME = "downtime"
    """At the tenant's own value; nobody is paid."""
    DONOR_ENERGY = "donor_energy"
    RECIPIENT_ENERGY = "recipient_energy"
    BROKEN_PROMISES = "broken_promises"
    """What the tenant expects to lose by them; nobody is paid."""
    EXPECTED_CREDIT = "expected_credit"
    CREDIT = "credit"
    """What was given back; in bills only."""


class CostLine(Value):
    """One line, rounded to the cent. No amount: it is not known, and in no total."""

    kind: CostKind
    amount: Amount | None = None
    paid_to: Name | None = Field(default=None, description="The provider that is paid, or pays; None: nobody is.")
    note: Text = Field(default="", description="How the amount is made, or why there is none.")


class PromiseRecord(Value):
    """How a provider has kept its promises, by the ledger. ``share`` is Laplace-smoothed: (kept + 1) / (total + 2)."""

    kept: Count
    total: Count
    share: Annotated[float, Field(ge=0, le=1)]
    low: Annotated[float, Field(ge=0, le=1)] = Field(description="With high, an interval of 90 % (Wilson).")
    high: Annotated[float, Field(ge=0, le=1)] = Field(description="Few records: a wide interval.")


Payback = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=1)] | Literal["never"] | None


class Costs(Value):
    """All that an offer costs the tenant over its horizon, in one currency."""

    currency: Currency
    horizon_months: Horizon
    lines: tuple[CostLine, ...] = Field(max_length=MAX_LINES)
    total: Amount = Field(description="The sum of all lines that have an amount.")
    saves_per_month: Amount | None = Field(
        default=None, description="Today's price less this one, per month; None: today's price is not known."
    )
    payback_months: Payback = Field(
        default=None, description="After how many months the savings have paid for the port; never, if it costs more."
    )
    record: PromiseRecord | None = None

    def line(self, kind: CostKind) -> CostLine | None:
        """The line of this kind, if there is one."""
        return next((line for line in self.lines if line.kind is kind), None)


# Why an offer was not chosen


class LineDifference(Value):
    """By how much one line speaks against the offer; negative: for it."""

    kind: CostKind
    amount: Amount


class LostOffer(Value):
    """Why an acceptable offer is not the best one."""

    provider: Name
    against: Name = Field(description="The provider whose offer is better, or with whose it is not compared.")
    difference: Amount | None = Field(default=None, description="Of the totals compared; None: they are not compared.")
    currency: Currency
    lines: tuple[LineDifference, ...] = Field(default=(), max_length=MAX_LINES, description="The largest first.")
    reason: Text


# The bill


class BillLine(Value):
    """One line of a bill, rounded to the cent. No amount: it was not measured, and is in no total."""

    kind: CostKind
    amount: Amount | None = None
    currency: Currency
    quoted: Amount | None = Field(default=None, description="The same line of the quote; None: there was none.")
    paid_to: Name | None = Field(default=None, description="The provider that is paid, or pays; None: nobody is.")
    note: Text = ""


class BillTotal(Value):
    """The sum of all lines in one currency, and of those by which somebody is paid."""

    currency: Currency
    total: Amount
    due: Amount = Field(description="Without what is only a value to the tenant, such as downtime.")


class Bill(Value):
    """What a completed port has cost. More than one total only where no rate of exchange makes one of them."""

    port_id: UUID
    vm_uuid: UUID
    vm_name: Text
    donor: Name
    recipient: Name
    completed_at: Timestamp
    currency: Currency = Field(description="The tenant's own, or else that of the agreement, as the ledger has it.")
    lines: tuple[BillLine, ...] = Field(max_length=16 * MAX_LINES)
    totals: tuple[BillTotal, ...] = Field(max_length=MAX_LINES)
    price_per_month: Amount = Field(description="The recipient's from now on, in the agreement's currency.")
    price_currency: Currency
    saves_per_month: Amount | None = None
    payback_months: Payback = None
