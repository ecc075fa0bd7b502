"""The lines of a port: what is in each, what is not known, and who is paid."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from services.broker.costs.exchange import Rate, Rates, cents
from services.broker.costs.lines import Figures, Line, Terms, joules, port_lines
from shared.messages.costs import (
    CostKind,
    EgressTariff,
    EgressTier,
    EnergyModel,
    EnergyTerms,
    JoiningTerms,
    LeavingTerms,
    SwitchingCharge,
    SwitchingRule,
)
from shared.messages.network import NetworkMode, NetworkTerms

DAY = date(2026, 3, 1)
MODEL = EnergyModel(joules_per_byte=1e-6, joules_per_s=10)
LEAVING = LeavingTerms(
    fee=Decimal("4.00"),
    egress=EgressTariff(tiers=(EgressTier(price_per_gb=Decimal("0.09")),)),
    energy=EnergyTerms(model=MODEL),
)
TERMS = Terms(
    donor="alpha",
    recipient="beta",
    leaving=LEAVING,
    joining=JoiningTerms(fee=Decimal("2.50"), energy=EnergyTerms(model=MODEL, price_per_kwh=Decimal("0.30"))),
    currency="EUR",
    network=NetworkTerms(carry=NetworkMode.EXTEND, price=Decimal("5.00")),
    downtime_cost_per_hour=Decimal("36.00"),
    downtime_currency="EUR",
    switching=(),
    on=DAY,
)
FIGURES = Figures(wire_bytes=100 * 10**9, total_s=600.0, outage_ms=500.0, word="expected")


def lines(terms: Terms = TERMS, figures: Figures = FIGURES, **changes: Any) -> dict[CostKind, Line]:
    """By kind."""
    return {line.kind: line for line in port_lines(replace(terms, **changes), figures)}


def amounts(found: dict[CostKind, Line]) -> dict[str, str | None]:
    """In cents, as text."""
    return {kind.value: str(cents(line.money.amount)) if line.money else None for kind, line in found.items()}


def test_every_line() -> None:
    """Fees, bytes, addresses, downtime and energy, figured by hand."""
    found = lines()
    assert amounts(found) == {
        "leaving_fee": "4.00",
        "joining_fee": "2.50",
        "egress": "9.00",
        "addresses": "5.00",
        "downtime": "0.01",
        "donor_energy": "0.00",
        "recipient_energy": "0.01",
    }
    paid = {kind.value: line.paid_to for kind, line in found.items()}
    assert paid["leaving_fee"] == paid["egress"] == paid["donor_energy"] == "alpha"
    assert paid["joining_fee"] == paid["addresses"] == paid["recipient_energy"] == "beta"
    assert paid["downtime"] is None
    assert "29.44 Wh, an estimate; not charged" in found[CostKind.DONOR_ENERGY].note
    assert joules(MODEL, 100 * 10**9, 600.0) == 106_000


def test_nothing_is_made_up() -> None:
    """What the providers do not state and nobody has predicted is not known, and says so."""
    figures = Figures(None, None, None, "not predicted")
    found = lines(figures=figures, leaving=None, joining=None, network=None)
    assert amounts(found) == {
        "egress": None,
        "downtime": None,
        "donor_energy": None,
        "recipient_energy": None,
    }
    assert found[CostKind.EGRESS].note == "not known: alpha does not state its price"
    assert found[CostKind.DONOR_ENERGY].note == "not stated by alpha"
    priced = lines(figures=figures)
    assert priced[CostKind.EGRESS].note == "not known: how many bytes will leave is not predicted"
    assert priced[CostKind.RECIPIENT_ENERGY].money is None


def test_what_is_free_needs_no_prediction() -> None:
    """Neither a free tariff, nor a ban, nor energy that is not charged depends on bytes."""
    figures = Figures(None, None, 500.0, "not predicted")
    free = LEAVING.model_copy(update={"egress": EgressTariff()})
    ban = SwitchingCharge(regime="eu", rule=SwitchingRule.BANNED, valid_from=DAY)
    for found in (lines(figures=figures, leaving=free), lines(figures=figures, switching=(ban,))):
        assert amounts(found)["egress"] == "0.00"
        assert amounts(found)["donor_energy"] == "0.00"
    assert amounts(lines(switching=(ban,)))["leaving_fee"] == "0.00"


def test_at_cost_limits_fee_and_egress() -> None:
    """By what the donor says that a port costs itself."""
    rule = SwitchingCharge(regime="eu", rule=SwitchingRule.AT_COST, valid_from=DAY)
    tariff = EgressTariff(tiers=(EgressTier(price_per_gb=Decimal("0.09")),), cost_per_gb=Decimal("0.01"))
    leaving = LEAVING.model_copy(update={"fee_cost": Decimal("1.50"), "egress": tariff})
    found = amounts(lines(leaving=leaving, switching=(rule,)))
    assert (found["leaving_fee"], found["egress"]) == ("1.50", "1.00")


@pytest.mark.parametrize(
    ("table", "amount", "note"),
    [
        ((Rate(base="USD", quote="EUR", rate=Decimal("0.5"), as_of=DAY),), "2.00", "0.5 EUR per USD of 2026-03-01"),
        ((), None, "4.00 USD: no rate to EUR"),
    ],
)
def test_a_line_in_another_currency(table: tuple[Rate, ...], amount: str | None, note: str) -> None:
    """It is converted by a rate that is named, or not known in that currency."""
    fee = lines(leaving=LEAVING.model_copy(update={"currency": "USD"}))[CostKind.LEAVING_FEE]
    told = fee.in_currency("EUR", Rates(table=table), DAY)
    assert (told.amount, told.note) == (Decimal(amount) if amount else None, note)
