"""The lines of a port: fees, egress, addresses, downtime, energy. Foreseen for a quote, measured for a bill. Pure.

A line's amount is in the currency of who asks for it, and not rounded yet; `Line.in_currency` makes it one of a quote.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from services.broker.costs.egress import ZERO, charge_in_force, is_nothing, limited, list_price
from services.broker.costs.exchange import Money, Rates, cents
from shared.messages.costs import (
    CostKind,
    CostLine,
    EnergyModel,
    EnergyTerms,
    JoiningTerms,
    LeavingTerms,
    SwitchingCharge,
)
from shared.messages.network import NetworkTerms
from shared.parties import Name

MS_PER_HOUR = 3_600_000
JOULES_PER_KWH = 3_600_000
JOULES_PER_WH = 3_600


@dataclass(frozen=True, slots=True)
class Figures:
    """What a port takes, or took; None: not known. ``word`` says which."""

    wire_bytes: int | None
    total_s: float | None
    outage_ms: float | None
    word: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What both providers ask, the tenant's own value of downtime, and the rules of the day."""

    donor: Name
    recipient: Name
    leaving: LeavingTerms | None
    joining: JoiningTerms | None
    currency: str
    """The recipient's."""
    network: NetworkTerms | None
    downtime_cost_per_hour: Decimal
    downtime_currency: str
    switching: tuple[SwitchingCharge, ...]
    on: date
    """The day of the port."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line in its own currency, not rounded. ``money`` is None where it is not known."""

    kind: CostKind
    money: Money | None
    paid_to: Name | None = None
    note: str = ""

    def in_currency(self, currency: str, rates: Rates, today: date) -> CostLine:
        """As a quote has it: in one currency, rounded to the cent. Without a rate it is not known."""
        if self.money is None:
            return CostLine(kind=self.kind, amount=None, paid_to=self.paid_to, note=self.note)
        converted = rates.convert(self.money, currency, today)
        if converted is None:
            no_rate = f"{cents(self.money.amount)} {self.money.currency}: no rate to {currency}"
            return CostLine(kind=self.kind, amount=None, paid_to=self.paid_to, note=_joined(self.note, no_rate))
        how = str(converted.rate) if converted.rate is not None else ""
        return CostLine(
            kind=self.kind, amount=cents(converted.amount), paid_to=self.paid_to, note=_joined(self.note, how)
        )


def _joined(*words: str) -> str:
    return "; ".join(word for word in words if word)


def port_lines(terms: Terms, figures: Figures) -> tuple[Line, ...]:
    """Every line of the port itself; a fee of nothing has none."""
    leaving, joining = terms.leaving, terms.joining
    return (
        *_leaving_fee(terms),
        *_joining_fee(terms),
        _egress(terms, figures),
        *_addresses(terms),
        *_downtime(terms, figures),
        _energy(
            CostKind.DONOR_ENERGY,
            leaving.energy if leaving else None,
            figures,
            provider=terms.donor,
            currency=leaving.currency if leaving else terms.currency,
        ),
        _energy(
            CostKind.RECIPIENT_ENERGY,
            joining.energy if joining else None,
            figures,
            provider=terms.recipient,
            currency=terms.currency,
        ),
    )


def _rule(terms: Terms) -> SwitchingCharge | None:
    return charge_in_force(terms.switching, terms.donor, terms.on)


def _leaving_fee(terms: Terms) -> Iterator[Line]:
    leaving = terms.leaving
    if leaving is not None and leaving.fee:
        charge = limited(leaving.fee, leaving.fee_cost, _rule(terms), terms.donor)
        yield Line(CostKind.LEAVING_FEE, Money(charge.amount, leaving.currency), terms.donor, charge.word)


def _joining_fee(terms: Terms) -> Iterator[Line]:
    if terms.joining is not None and terms.joining.fee:
        yield Line(CostKind.JOINING_FEE, Money(terms.joining.fee, terms.currency), terms.recipient)


def _egress(terms: Terms, figures: Figures) -> Line:
    kind, donor, leaving, rule = CostKind.EGRESS, terms.donor, terms.leaving, _rule(terms)
    tariff = leaving.egress if leaving is not None else None
    currency = leaving.currency if leaving is not None else terms.currency
    if is_nothing(rule):
        return Line(kind, Money(ZERO, currency), donor, limited(ZERO, None, rule, donor).word)
    if tariff is None:
        return Line(kind, None, donor, f"not known: {donor} does not state its price")
    if not tariff.tiers:
        return Line(kind, Money(ZERO, currency), donor, "free")
    if figures.wire_bytes is None:
        return Line(kind, None, donor, f"not known: how many bytes will leave is {figures.word}")
    price = list_price(figures.wire_bytes, tariff)
    own = Decimal(figures.wire_bytes) / 10**9 * tariff.cost_per_gb if tariff.cost_per_gb is not None else None
    charge = limited(price, own, rule, donor)
    amount = f"{_gigabytes(figures.wire_bytes)} GB {figures.word}"
    return Line(kind, Money(charge.amount, currency), donor, _joined(amount, charge.word))


def _gigabytes(count: int) -> str:
    return f"{Decimal(count) / 10**9:.3f}"


def _addresses(terms: Terms) -> Iterator[Line]:
    if terms.network is not None and terms.network.price:
        yield Line(CostKind.ADDRESSES, Money(terms.network.price, terms.currency), terms.recipient)


def _downtime(terms: Terms, figures: Figures) -> Iterator[Line]:
    value = terms.downtime_cost_per_hour
    if not value:
        return
    if figures.outage_ms is None:
        yield Line(CostKind.DOWNTIME, None, None, "not known")
        return
    lost = Decimal(round(figures.outage_ms)) * value / MS_PER_HOUR
    note = f"{figures.outage_ms:.0f} ms {figures.word}, at {value} {terms.downtime_currency} per hour"
    yield Line(CostKind.DOWNTIME, Money(lost, terms.downtime_currency), None, note)


def joules(model: EnergyModel, wire_bytes: int, total_s: float) -> float:
    """Liu's form, for one host."""
    return model.joules_per_byte * wire_bytes + model.joules_per_s * total_s


def _energy(kind: CostKind, energy: EnergyTerms | None, figures: Figures, *, provider: Name, currency: str) -> Line:
    if energy is None:
        return Line(kind, None, provider, f"not stated by {provider}")
    charged = energy.price_per_kwh
    if figures.wire_bytes is None or figures.total_s is None:
        nothing = Money(ZERO, currency) if charged is None else None
        return Line(kind, nothing, provider, f"how much is {figures.word}" + ("; not charged" if not charged else ""))
    used = joules(energy.model, figures.wire_bytes, figures.total_s)
    at = energy.model.measured_at
    source = f"by figures measured at {at:%Y-%m-%d}" if at is not None else "an estimate"
    note = f"{used / JOULES_PER_WH:.2f} Wh, {source}" + ("; not charged" if charged is None else "")
    price = Decimal(str(round(used, 3))) / JOULES_PER_KWH * (charged or ZERO)
    return Line(kind, Money(price, currency), provider, note)
