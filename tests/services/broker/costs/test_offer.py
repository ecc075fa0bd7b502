"""What one offer costs over the tenant's horizon."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.costs.offer import Costing, costs_of, foreseen, payback
from shared.messages.costs import CostKind, Costs, JoiningTerms
from shared.messages.service_change import Quote
from tests.support.broker_samples import quote
from tests.support.money_samples import costing, estimate, leaving, rates


def amounts(costs: Costs) -> dict[str, str | None]:
    """Each line's amount as text."""
    return {line.kind.value: str(line.amount) if line.amount is not None else None for line in costs.lines}


def offer(**changes: Any) -> Quote:
    """Beta's, 9.00 EUR per month."""
    return quote("beta", estimate=estimate(), **changes)


def test_all_lines() -> None:
    """Figures by hand: 12 months of 9.00, fees, 10 GB, 200 ms at 3600.00 per hour; one broken promise in five."""
    known = costing({"downtime_cost_per_hour": "3600.00"}, terms=leaving(), promises={"beta": (7, 8)})
    joining = JoiningTerms(fee=Decimal("2.00"), credit_percent=Decimal(5))
    costs = costs_of(offer(joining=joining), known, "EUR")
    assert amounts(costs) == {
        "price": "108.00",
        "leaving_fee": "4.00",
        "joining_fee": "2.00",
        "egress": "1.00",
        "downtime": "0.20",
        "donor_energy": None,
        "recipient_energy": None,
        "broken_promises": "0.18",
        "expected_credit": "-0.09",
    }
    assert costs.total == Decimal("115.29")
    assert (costs.saves_per_month, costs.payback_months) == (Decimal("21.00"), Decimal("0.4"))
    assert costs.record is not None
    assert (costs.record.kept, costs.record.total, costs.record.share) == (7, 8, 0.8)


def test_without_a_prediction() -> None:
    """Downtime is what is promised; bytes are not known, and so is their price."""
    told = foreseen(quote(promised_downtime_ms=500))
    assert (told.wire_bytes, told.total_s, told.outage_ms, told.word) == (None, None, 500, "not predicted")
    costs = costs_of(quote(), costing(terms=leaving()), "EUR")
    assert amounts(costs)["egress"] is None


def test_a_horizon_weighs_the_price() -> None:
    """Over one month the port itself counts more."""
    one = costs_of(offer(), costing({"horizon_months": 1}, terms=leaving()), "EUR")
    assert amounts(one)["price"] == "9.00"
    line = one.line(CostKind.PRICE)
    assert line is not None
    assert line.note == "9.00 EUR for 1 month"


@pytest.mark.parametrize(
    ("once", "saves", "months"),
    [("10", None, None), ("10", "0", "never"), ("10", "-1", "never"), ("-3", "1", "0.0"), ("10", "3", "3.4")],
)
def test_payback(once: str, saves: str | None, months: str | None) -> None:
    """Rounded up to a tenth; never where it costs more; not known where today's price is not."""
    expected = Decimal(months) if months not in {None, "never"} else months
    assert payback(Decimal(once), Decimal(saves) if saves is not None else None) == expected


def test_todays_price_by_the_ledger() -> None:
    """Where the donor does not say it; in another currency by a rate, or not at all."""
    recorded = {"per_month": "10.00", "currency": "USD"}
    known = costing(price_now=recorded, rates=rates(USD_EUR="0.5"))
    assert costs_of(offer(), known, "EUR").saves_per_month == Decimal("-4.00")
    assert costs_of(offer(), costing(price_now=recorded), "EUR").saves_per_month is None


MONEY = st.decimals(0, 10_000, places=2)


@given(
    price=MONEY,
    fees=st.tuples(MONEY, MONEY),
    gigabytes=st.floats(0, 5000),
    downtime=MONEY,
    record=st.integers(0, 50).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))),
    percents=st.tuples(st.decimals(0, 100, places=2), st.decimals(0, 100, places=2)),
    rate=st.decimals("0.0001", 1000, places=4),
)
def test_lines_add_up_to_the_cent(
    price: Decimal,
    fees: tuple[Decimal, Decimal],
    gigabytes: float,
    downtime: Decimal,
    record: tuple[int, int],
    percents: tuple[Decimal, Decimal],
    rate: Decimal,
) -> None:
    """Each line is rounded by itself, so the total is their sum; and a broken promise never makes an offer cheaper."""
    known = costing(
        {"downtime_cost_per_hour": downtime, "currency": "EUR"},
        terms=leaving(fee=fees[0], currency="USD"),
        promises={"beta": record},
        rates=rates(USD_EUR=str(rate)),
        broken_promise_percent=percents[0],
    )
    joining = JoiningTerms(fee=fees[1], credit_percent=percents[1])
    costs = costs_of(quote(price=str(price), joining=joining, estimate=estimate(gigabytes)), known, "EUR")
    assert costs.total == sum(line.amount for line in costs.lines if line.amount is not None)
    assert all(line.amount == line.amount.quantize(Decimal("0.01")) for line in costs.lines if line.amount is not None)
    broken, credit = costs.line(CostKind.BROKEN_PROMISES), costs.line(CostKind.EXPECTED_CREDIT)
    if broken is not None and broken.amount is not None:
        assert broken.amount + (credit.amount if credit is not None and credit.amount is not None else 0) >= 0


def test_terms_of_the_windows_day() -> None:
    """A rule that comes into force before the window binds the port."""
    rule = {"regime": "eu", "rule": "banned", "valid_from": "2026-03-05"}
    now = costing(terms=leaving(), switching=(rule,))
    later = costing({"window_start": "2026-03-05T01:00:00Z"}, terms=leaving(), switching=(rule,))
    assert [_fee(each) for each in (now, later)] == ["4.00", "0.00"]


def _fee(known: Costing) -> str | None:
    return amounts(costs_of(offer(), known, "EUR"))["leaving_fee"]
