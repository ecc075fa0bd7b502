"""The bill of a completed port: the lines of its quote, as they were measured, and the credits given since. Pure.

Each line is rounded to the cent by itself, half up, because each is what one party pays; a total is the sum of its
lines, so it adds up. A line that no rate leads to the bill's currency stays in its own, and has a total of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.broker.costs.exchange import Money, cents
from services.broker.costs.lines import Figures, Line, port_lines
from services.broker.costs.offer import Costing, payback, saves_per_month
from shared.messages.base import Price, Text, Timestamp, Value
from shared.messages.costs import Bill, BillLine, BillTotal, CostKind, Costs, Currency
from shared.messages.porting import OutboundFinished, ServiceChangeAgreement
from shared.messages.service_change import Quote, SlaRecord
from shared.parties import Name


class Credit(Value):
    """What a provider gave back, for a promise that it did not keep: of one port, or of the VM since then."""

    port_id: UUID | None = None
    vm_uuid: UUID | None = None
    provider: Name
    amount: Price
    currency: Currency
    reason: Text
    guarantee: Text
    at: Timestamp


@dataclass(frozen=True, slots=True)
class Completed:
    """A port that has completed: what was agreed, what was measured, what has been given back."""

    agreement: ServiceChangeAgreement
    quote: Quote
    costing: Costing
    """As of the agreement: the rates and rules of that day."""
    outbound: OutboundFinished | None
    sla: SlaRecord
    completed_at: datetime
    credits: tuple[Credit, ...] = ()

    @property
    def currency(self) -> str:
        """In which the bill is written."""
        return self.costing.limits.currency or self.sla.currency


def measured(port: Completed) -> Figures:
    """What the port took. A donor that reported no figures leaves the bytes unknown."""
    outage_ms = port.sla.measured_outage_ms
    return Figures(
        wire_bytes=port.outbound.wire_bytes if port.outbound is not None else None,
        total_s=port.sla.measured_total_s,
        outage_ms=float(outage_ms if outage_ms is not None else port.sla.measured_downtime_ms),
        word="measured" if port.outbound is not None else "not measured",
    )


def bill_of(port: Completed) -> Bill:
    """The bill."""
    agreed, currency, costing = port.agreement, port.currency, port.costing
    own = (*port_lines(costing.terms(port.quote), measured(port)), *map(_credit_line, port.credits))
    lines = tuple(_billed(line, port, currency) for line in own)
    totals = _totals(lines, currency)
    saves = saves_per_month(agreed.price_per_month, agreed.currency, costing, currency)
    return Bill(
        port_id=agreed.port_id,
        vm_uuid=agreed.vm_uuid,
        vm_name=agreed.vm_name,
        donor=agreed.donor,
        recipient=agreed.recipient,
        completed_at=port.completed_at,
        currency=currency,
        lines=lines,
        totals=totals,
        price_per_month=agreed.price_per_month,
        price_currency=agreed.currency,
        saves_per_month=saves,
        payback_months=payback(totals[0].total, saves) if len(totals) == 1 else None,
    )


def _credit_line(credit: Credit) -> Line:
    note = f"{credit.guarantee}: {credit.reason} ({credit.at:%Y-%m-%d})"
    return Line(CostKind.CREDIT, Money(-credit.amount, credit.currency), credit.provider, note)


def _billed(line: Line, port: Completed, currency: str) -> BillLine:
    rates, today = port.costing.basis.rates, port.costing.today
    quoted = _quoted(port.quote.costs, line.kind, currency)
    if line.money is not None and rates.convert(line.money, currency, today) is None:
        amount, kept_in = cents(line.money.amount), line.money.currency
        note = "; ".join(word for word in (line.note, f"no rate to {currency}") if word)
        return BillLine(kind=line.kind, amount=amount, currency=kept_in, paid_to=line.paid_to, note=note)
    told = line.in_currency(currency, rates, today)
    return BillLine(
        kind=told.kind, amount=told.amount, currency=currency, quoted=quoted, paid_to=told.paid_to, note=told.note
    )


def _quoted(costs: Costs | None, kind: CostKind, currency: str) -> Decimal | None:
    if costs is None or costs.currency != currency:
        return None
    line = costs.line(kind)
    return line.amount if line is not None else None


def _totals(lines: Iterable[BillLine], currency: str) -> tuple[BillTotal, ...]:
    """The bill's own currency first, even where no line is in it."""
    sums: dict[str, list[Decimal]] = {currency: [Decimal("0.00"), Decimal("0.00")]}
    for line in lines:
        if line.amount is not None:
            both = sums.setdefault(line.currency, [Decimal("0.00"), Decimal("0.00")])
            both[0] += line.amount
            both[1] += line.amount if line.paid_to is not None else 0
    return tuple(BillTotal(currency=each, total=total, due=due) for each, (total, due) in sums.items())
