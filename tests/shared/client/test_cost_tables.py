"""Money on the command line."""

from __future__ import annotations

from decimal import Decimal

import pytest

from shared.client.cost_tables import payback_text, record_text, saving_text
from shared.exit_codes import ExitCode
from shared.messages.costs import (
    Bill,
    BillLine,
    BillTotal,
    CostKind,
    CostLine,
    Costs,
    LineDifference,
    LostOffer,
    Payback,
    PromiseRecord,
)
from shared.messages.service_change import PortPlanned
from tests.support.scripted_broker import NOW, PORT, QUOTE, REFUSAL, WEB, Cli, ScriptedBroker, answering

COSTS = Costs(
    currency="EUR",
    horizon_months=12,
    lines=(
        CostLine(kind=CostKind.PRICE, amount="150.00", paid_to="beta", note="12.50 EUR for 12 months"),
        CostLine(kind=CostKind.EGRESS, amount=None, paid_to="alpha", note="not known: alpha does not state its price"),
    ),
    total="150.00",
    saves_per_month="2.50",
    payback_months="1.6",
    record=PromiseRecord(kept=7, total=8, share=0.8, low=0.6, high=0.95),
)
BEST = QUOTE.model_copy(update={"costs": COSTS})
OTHER = BEST.model_copy(update={"provider": "delta", "costs": COSTS.model_copy(update={"total": Decimal("162.00")})})
LOST = LostOffer(
    provider="delta",
    against="beta",
    difference="12.00",
    currency="EUR",
    lines=(LineDifference(kind=CostKind.PRICE, amount="12.00"),),
    reason="costs 12.00 EUR more over 12 months: price +12.00",
)
BILL = Bill(
    port_id=PORT,
    vm_uuid=WEB.uuid,
    vm_name="web",
    donor="alpha",
    recipient="beta",
    completed_at=NOW,
    currency="EUR",
    lines=(
        BillLine(kind=CostKind.EGRESS, amount="0.90", currency="EUR", quoted="1.00", paid_to="alpha", note="9 GB"),
        BillLine(kind=CostKind.DOWNTIME, amount="0.10", currency="EUR"),
        BillLine(kind=CostKind.CREDIT, amount="-0.50", currency="EUR", paid_to="beta", note="late"),
        BillLine(kind=CostKind.DONOR_ENERGY, amount=None, currency="EUR", note="not stated by alpha"),
    ),
    totals=(BillTotal(currency="EUR", total="0.50", due="0.40"),),
    price_per_month="12.50",
    price_currency="EUR",
    saves_per_month="-1.00",
    payback_months="never",
)


def planned(broker: ScriptedBroker, lost: LostOffer = LOST) -> None:
    """The broker answers with two offers and one that declines."""
    broker.on_command = answering(
        lambda port: (PortPlanned(port_id=port, quotes=(BEST, OTHER), declined={"gamma": (REFUSAL,)}, lost=(lost,)),)
    )


def test_explain(vmport: Cli, broker: ScriptedBroker) -> None:
    """Why each other one lost, by how much, and every line of every offer."""
    planned(broker)
    options = ("--explain", "--horizon", "2y", "--downtime-cost", "40", "--currency", "eur")
    assert vmport("quote", "web", *options) == ExitCode.OK
    limits = broker.requested.limits
    assert (limits.horizon_months, limits.downtime_cost_per_hour, limits.currency) == (24, Decimal(40), "EUR")
    for said in (
        "the best offer",
        "12.00 EUR",
        "costs 12.00 EUR more over 12 months: price +12.00",
        "512 MiB asked, 100 MiB free",
        "12.50 EUR for 12 months",
        "not known: alpha does not state its price",
        "without what is not known: egress",
        "2.50 EUR less than today",
        "after 1.6 months",
        "7 of 8; by so few, between 60% and 95%",
    ):
        assert said in vmport.out
    assert "--currency" not in vmport.err


def test_without_explain_only_the_total(vmport: Cli, broker: ScriptedBroker) -> None:
    """The short table has what offers are compared by."""
    planned(broker)
    assert vmport("quote", "web") == ExitCode.OK
    assert "150.00 EUR in 12 months" in vmport.out
    assert "more over" not in vmport.out


def test_a_currency_is_asked_for(vmport: Cli, broker: ScriptedBroker) -> None:
    """Where offers are not compared."""
    planned(broker, LOST.model_copy(update={"difference": None, "reason": "not compared"}))
    assert vmport("quote", "web", "--explain") == ExitCode.OK
    assert "not compared" in vmport.out
    assert "Name the currency that you pay in: --currency" in vmport.err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--horizon", "0"), ("--horizon", "11y"), ("--horizon", "soon"), ("--currency", "DEM"), ("--downtime-cost", "-1")],
)
def test_wrong_options(vmport: Cli, option: str, value: str) -> None:
    """Named with what is expected, before anything is asked."""
    assert vmport("quote", "web", option, value) == ExitCode.USAGE
    assert f"{option}: '{value}' is not valid: expected" in vmport.err


def test_bill(vmport: Cli, broker: ScriptedBroker) -> None:
    """Measured beside quoted, with the sums; as JSON it is the bill."""
    broker.bill = BILL
    assert vmport("port", "bill", str(PORT)) == ExitCode.OK
    for said in (
        "0.90",
        "1.00",
        "9 GB",
        "-0.50",
        "not known",
        "total",
        "of it to pay",
        "0.40",
        "1.00 EUR more",
        "never",
    ):
        assert said in vmport.out
    assert vmport("port", "bill", str(PORT), "--json") == ExitCode.OK
    assert Bill.model_validate_json(vmport.out) == BILL


def test_no_bill(vmport: Cli, broker: ScriptedBroker) -> None:
    """The broker's own word."""
    assert broker.bill is None
    assert vmport("port", "bill", str(PORT)) == ExitCode.REFUSED
    assert "not completed" in vmport.err


@pytest.mark.parametrize(
    ("saves", "text"),
    [(None, "today's price is not known"), ("0", "the same as today"), ("-2.00", "2.00 EUR more than today")],
)
def test_saving(saves: str | None, text: str) -> None:
    """Against today's price."""
    assert saving_text(Decimal(saves) if saves is not None else None, "EUR") == text


@pytest.mark.parametrize(("months", "text"), [(None, None), ("never", "never"), (Decimal("3.4"), "after 3.4 months")])
def test_payback(months: Payback, text: str | None) -> None:
    """Left out where it is not known."""
    assert payback_text(months) == text


def test_records() -> None:
    """An interval only where there are few."""
    many = PromiseRecord(kept=90, total=100, share=0.9, low=0.8, high=0.95)
    assert record_text(many) == "90 of 100"
    assert record_text(PromiseRecord(kept=0, total=0, share=0.5, low=0, high=1)) == "no record yet"
    assert record_text(None) is None
