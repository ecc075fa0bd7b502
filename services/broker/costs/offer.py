"""What one offer costs the tenant over its horizon, foreseen. Pure.

Price over the horizon, the port itself, and broken promises. A promise is broken with the probability that the
provider's record gives, and then counts a share of a month's price; a credit makes that good, but never more than that:
no offer gets cheaper because its provider breaks promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_UP, Decimal
from typing import Literal

from services.broker.costs.basis import NO_BASIS, Basis
from services.broker.costs.exchange import Money, cents
from services.broker.costs.lines import Figures, Line, Terms, port_lines
from shared.messages.costs import CostKind, CostLine, Costs, LeavingTerms
from shared.messages.service_change import PortLimits, Quote
from shared.parties import Name

NOT_PREDICTED = "not predicted"
TENTH = Decimal("0.1")
LONGEST_PAYBACK = Decimal(10**9)


@dataclass(frozen=True, slots=True)
class Costing:
    """All that is needed to tell what offers for one port cost, beside the offers."""

    donor: Name
    limits: PortLimits
    now: datetime
    leaving: LeavingTerms | None = None
    basis: Basis = NO_BASIS

    @property
    def today(self) -> date:
        """The day by which rates are chosen."""
        return self.now.date()

    def terms(self, quote: Quote) -> Terms:
        """What both providers ask where this offer is taken."""
        return Terms(
            donor=self.donor,
            recipient=quote.provider,
            leaving=self.leaving,
            joining=quote.joining,
            currency=quote.currency,
            network=quote.network,
            downtime_cost_per_hour=self.limits.downtime_cost_per_hour,
            downtime_currency=self.limits.currency or quote.currency,
            switching=self.basis.switching,
            on=max(self.now, self.limits.window_start or self.now).date(),
        )


def foreseen(quote: Quote) -> Figures:
    """What the port will take: the broker's estimate (half of all such ports stay below), or else what is promised."""
    if quote.estimate is None:
        return Figures(None, None, quote.promised_downtime_ms, NOT_PREDICTED)
    told = quote.estimate
    return Figures(round(told.wire_bytes.p50), told.total_s.p50, told.outage_ms.p50, "expected")


def costs_of(quote: Quote, costing: Costing, currency: str) -> Costs:
    """The offer's costs in this currency; its price must be convertible to it."""
    rates, today, months = costing.basis.rates, costing.today, costing.limits.horizon_months
    price = Money(quote.price_per_month * months, quote.currency)
    note = f"{quote.price_per_month} {quote.currency} for {months} month{'s' if months > 1 else ''}"
    lines = tuple(
        line.in_currency(currency, rates, today)
        for line in (
            Line(CostKind.PRICE, price, quote.provider, note),
            *port_lines(costing.terms(quote), foreseen(quote)),
            *_promises(quote, costing.basis),
        )
    )
    total = sum_of(lines)
    saves = saves_per_month(quote.price_per_month, quote.currency, costing, currency)
    once = total - sum_of(tuple(line for line in lines if line.kind is CostKind.PRICE))
    return Costs(
        currency=currency,
        horizon_months=months,
        lines=lines,
        total=total,
        saves_per_month=saves,
        payback_months=payback(once, saves),
        record=costing.basis.kept_by(quote.provider).record(),
    )


def sum_of(lines: tuple[CostLine, ...]) -> Decimal:
    """Of what is known."""
    return sum((line.amount for line in lines if line.amount is not None), Decimal("0.00"))


def _promises(quote: Quote, basis: Basis) -> Iterator[Line]:
    kept, percent = basis.kept_by(quote.provider), basis.broken_promise_percent
    if not percent:
        return
    broken = Decimal((1 - kept.share).numerator) / Decimal((1 - kept.share).denominator)
    of_month = quote.price_per_month / 100
    note = f"{kept.kept} of {kept.total} kept: broken with probability {broken:.2f}, counts {percent} % of a month"
    yield Line(CostKind.BROKEN_PROMISES, Money(broken * percent * of_month, quote.currency), None, note)
    credit = quote.joining.credit_percent if quote.joining is not None else Decimal(0)
    if credit:
        counted = min(credit, percent)
        note = f"{credit} % of a month with probability {broken:.2f}"
        note += f"; counts {percent} % at most" if credit > percent else ""
        yield Line(CostKind.EXPECTED_CREDIT, Money(-broken * counted * of_month, quote.currency), quote.provider, note)


# Against today's price


def saves_per_month(price: Decimal, price_currency: str, costing: Costing, currency: str) -> Decimal | None:
    """Today's price less the new one; negative: it is more. None where today's is not known, or no rate is."""
    now, rates = _price_now(costing), costing.basis.rates
    if now is None:
        return None
    old = rates.convert(now, currency, costing.today)
    new = rates.convert(Money(price, price_currency), currency, costing.today)
    return None if old is None or new is None else cents(old.amount) - cents(new.amount)


def _price_now(costing: Costing) -> Money | None:
    leaving, recorded = costing.leaving, costing.basis.price_now
    if leaving is not None and leaving.price_per_month is not None:
        return Money(leaving.price_per_month, leaving.currency)
    return Money(recorded.per_month, recorded.currency) if recorded is not None else None


def payback(once: Decimal, saves: Decimal | None) -> Decimal | Literal["never"] | None:
    """Months until the savings have paid what the port costs once, rounded up to a tenth."""
    if saves is None:
        return None
    if saves <= 0:
        return "never"
    return min(LONGEST_PAYBACK, (max(once, Decimal(0)) / saves).quantize(TENTH, ROUND_UP))
