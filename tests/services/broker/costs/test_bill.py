"""The bill of a completed port."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.broker.costs.bill import Completed, Credit, bill_of
from services.broker.costs.choice import rank
from services.broker.costs.offer import Costing
from shared.messages.costs import Bill, JoiningTerms
from tests.support.broker_samples import NOW, PORT, Conversation, quote, request
from tests.support.money_samples import costing, estimate, leaving, rates

STATE = Conversation.begin(request()).completed().state


def credit(amount: str = "1.00", currency: str = "EUR") -> Credit:
    """For a promise that was not kept."""
    return Credit(
        port_id=PORT,
        provider="beta",
        amount=Decimal(amount),
        currency=currency,
        reason="600 ms instead of 500 ms",
        guarantee="downtime",
        at=NOW,
    )


def completed(known: Costing, *credits_given: Credit, **changes: Any) -> Completed:
    """The sample's port, with 10 GB on the wire."""
    assert STATE.agreement is not None
    assert STATE.outbound is not None
    assert STATE.sla is not None
    offer = quote(joining=JoiningTerms(fee=Decimal("2.00")), estimate=estimate(5))
    facts: dict[str, Any] = {
        "agreement": STATE.agreement,
        "quote": rank((offer,), known).quotes[0],
        "costing": known,
        "outbound": STATE.outbound.model_copy(update={"wire_bytes": 10 * 10**9}),
        "sla": STATE.sla,
        "completed_at": NOW + timedelta(minutes=5),
        "credits": credits_given,
        **changes,
    }
    return Completed(**facts)


def amounts(bill: Bill) -> dict[str, tuple[str | None, str | None]]:
    """Of each line what was measured and what was quoted."""
    return {line.kind.value: (_text(line.amount), _text(line.quoted)) for line in bill.lines}


def _text(amount: Decimal | None) -> str | None:
    return str(amount) if amount is not None else None


def test_measured_beside_quoted() -> None:
    """Twice as many bytes as expected cost twice as much; downtime is the measured outage of 150 ms."""
    bill = bill_of(completed(costing({"downtime_cost_per_hour": "7200.00"}, terms=leaving()), credit()))
    assert amounts(bill) == {
        "leaving_fee": ("4.00", "4.00"),
        "joining_fee": ("2.00", "2.00"),
        "egress": ("1.00", "0.50"),
        "downtime": ("0.30", "0.40"),
        "donor_energy": (None, None),
        "recipient_energy": (None, None),
        "credit": ("-1.00", None),
    }
    (total,) = bill.totals
    assert (total.currency, total.total, total.due) == ("EUR", Decimal("6.30"), Decimal("6.00"))
    assert (bill.saves_per_month, bill.payback_months) == (Decimal("21.00"), Decimal("0.3"))
    assert bill.lines[-1].note == "downtime: 600 ms instead of 500 ms (2026-03-01)"


def test_a_donor_without_figures() -> None:
    """Bytes were not measured: their price is not known, and in no sum."""
    bill = bill_of(completed(costing(terms=leaving()), outbound=None))
    assert amounts(bill)["egress"] == (None, "0.50")
    assert bill.totals[0].total == Decimal("6.00")


def test_another_currency() -> None:
    """By the rate of the agreement's day; without one the line keeps its own, with a total of its own."""
    terms = leaving(currency="USD")
    with_rate = bill_of(completed(costing(terms=terms, rates=rates(USD_EUR="0.5"))))
    assert [(each.currency, each.total) for each in with_rate.totals] == [("EUR", Decimal("4.50"))]
    without = bill_of(completed(costing(terms=terms)))
    assert [(each.currency, each.total) for each in without.totals] == [
        ("EUR", Decimal("2.00")),
        ("USD", Decimal("5.00")),
    ]
    assert without.payback_months is None


def test_in_the_tenants_currency() -> None:
    """Which it named when it asked."""
    bill = bill_of(completed(costing({"currency": "CHF"}, terms=leaving(), rates=rates(EUR_CHF="2"))))
    assert [(each.currency, each.total) for each in bill.totals] == [("CHF", Decimal("14.00"))]


MONEY = st.decimals("0.01", 10**6, places=2)


@given(
    st.lists(st.tuples(MONEY, st.sampled_from(["EUR", "USD", "JPY"])), max_size=6),
    st.integers(0, 10**13),
    st.decimals("0.0001", 1000, places=4),
    MONEY,
)
def test_sums_are_those_of_the_lines(
    given_back: list[tuple[Decimal, str]], wire_bytes: int, rate: Decimal, value: Decimal
) -> None:
    """To the cent, in each currency, whatever was rounded; what is due is a part of it."""
    known = costing({"downtime_cost_per_hour": value}, terms=leaving(currency="USD"), rates=rates(USD_EUR=str(rate)))
    assert STATE.outbound is not None
    outbound = STATE.outbound.model_copy(update={"wire_bytes": wire_bytes})
    credits_given = tuple(credit(str(amount), currency) for amount, currency in given_back)
    bill = bill_of(completed(known, *credits_given, outbound=outbound))
    assert {total.currency for total in bill.totals} >= {line.currency for line in bill.lines}
    for total in bill.totals:
        mine = [line for line in bill.lines if line.currency == total.currency and line.amount is not None]
        assert total.total == sum((line.amount for line in mine if line.amount is not None), Decimal(0))
        paid = [line.amount for line in mine if line.paid_to is not None and line.amount is not None]
        assert total.due == sum(paid, Decimal(0))
    assert Bill.model_validate_json(bill.model_dump_json()) == bill
