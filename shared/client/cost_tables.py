"""How money looks on the command line: the costs of offers, why each other one lost, and a port's bill. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from rich.table import Table

from shared.client.render import facts_table, human_time, make_table, plain
from shared.messages.costs import Bill, BillLine, CostKind, CostLine, Costs, Payback, PromiseRecord
from shared.messages.service_change import PortPlanned, Quote

FEW_RECORDS = 30
"""With fewer, a record of kept promises is shown with its interval."""


def explained(plan: PortPlanned) -> list[Table]:
    """``quote --explain``: the choice, then the lines of every offer."""
    tables = [choice_table(plan)] if plan.quotes else []
    for quote in plan.quotes:
        if quote.costs is not None:
            tables += [costs_table(quote, quote.costs), _months_table(quote.costs)]
    return tables


def choice_table(plan: PortPlanned) -> Table:
    """The best offer, and of each other one by how much it lost, to whom, and why."""
    table = make_table("PROVIDER", "LOST BY", "TO", "WHY", title="the choice", right=("LOST BY",))
    lost = {each.provider: each for each in plan.lost}
    for quote in plan.quotes:
        each = lost.get(quote.provider)
        if each is None:
            table.add_row(quote.provider, "", "", "the best offer")
        else:
            by = f"{each.difference} {each.currency}" if each.difference is not None else "not compared"
            table.add_row(each.provider, by, each.against, plain(each.reason))
    for provider, refusals in plan.declined.items():
        table.add_row(provider, "no offer", "", plain("; ".join(refusal.evidence for refusal in refusals)))
    return table


def question_of(plan: PortPlanned) -> str:
    """What the tenant is asked where its offers are not compared; empty: they are."""
    if all(each.difference is not None for each in plan.lost):
        return ""
    currencies = sorted({quote.costs.currency for quote in plan.quotes if quote.costs is not None})
    return (
        f"Offers in {' and '.join(currencies)} are not compared: there is no rate of exchange that holds. Name the "
        "currency that you pay in: --currency"
    )


def costs_table(quote: Quote, costs: Costs) -> Table:
    """One offer, line by line."""
    table = make_table("LINE", costs.currency, "PAID TO", "HOW", title=f"costs at {quote.provider}")
    table.columns[1].justify = "right"
    for line in costs.lines:
        table.add_row(kind_text(line.kind), amount_text(line), line.paid_to or "", plain(line.note))
    table.add_row("total", str(costs.total), "", _total_note(costs))
    return table


def _total_note(costs: Costs) -> str:
    missing = ", ".join(kind_text(line.kind) for line in costs.lines if line.amount is None)
    return f"without what is not known: {missing}" if missing else ""


def amount_text(line: CostLine | BillLine) -> str:
    """``12.30``, or that it is not known."""
    return "not known" if line.amount is None else str(line.amount)


def kind_text(kind: CostKind) -> str:
    """``leaving fee``."""
    return kind.value.replace("_", " ")


def _months_table(costs: Costs) -> Table:
    return facts_table(
        None,
        (
            ("per month", saving_text(costs.saves_per_month, costs.currency)),
            ("pays back", payback_text(costs.payback_months)),
            ("promises kept", record_text(costs.record)),
        ),
    )


def saving_text(saves: Decimal | None, currency: str) -> str:
    """Against today's price."""
    if saves is None:
        return "today's price is not known"
    if saves == 0:
        return "the same as today"
    return f"{abs(saves)} {currency} {'less' if saves > 0 else 'more'} than today"


def payback_text(months: Payback) -> str | None:
    """When the savings have paid for the port."""
    if months is None:
        return None
    return "never" if months == "never" else f"after {months} months"


def record_text(record: PromiseRecord | None) -> str | None:
    """``7 of 8``, with an interval where that is few."""
    if record is None:
        return None
    if record.total == 0:
        return "no record yet"
    few = f"; by so few, between {record.low:.0%} and {record.high:.0%}" if record.total < FEW_RECORDS else ""
    return f"{record.kept} of {record.total}{few}"


def bill_tables(bill: Bill) -> list[Table]:
    """``port bill``: whose, each line beside its quote, the sums, and what it comes to per month."""
    facts = facts_table(
        None,
        (
            ("port", bill.port_id),
            ("vm", f"{bill.vm_name} ({bill.vm_uuid})"),
            ("from, to", f"{bill.donor}, {bill.recipient}"),
            ("completed", human_time(bill.completed_at)),
        ),
    )
    right = ("MEASURED", "QUOTED")
    lines = make_table("LINE", "MEASURED", "QUOTED", "CURRENCY", "PAID TO", "HOW", right=right)
    for line in bill.lines:
        quoted = "" if line.quoted is None else str(line.quoted)
        amount = amount_text(line)
        lines.add_row(kind_text(line.kind), amount, quoted, line.currency, line.paid_to or "", plain(line.note))
    for name, amount, currency in _sums(bill):
        lines.add_row(name, amount, "", currency, "", "")
    months = facts_table(
        None,
        (
            ("price per month", f"{bill.price_per_month} {bill.price_currency}"),
            ("per month", saving_text(bill.saves_per_month, bill.currency)),
            ("pays back", payback_text(bill.payback_months)),
        ),
    )
    return [facts, lines, months]


def _sums(bill: Bill) -> Iterator[tuple[str, str, str]]:
    for each in bill.totals:
        yield "total", str(each.total), each.currency
        if each.due != each.total:
            yield "of it to pay", str(each.due), each.currency
