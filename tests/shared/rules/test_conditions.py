"""Conditions of a port. Their boundaries are made from the regimes that ship: test_regime_files."""

from __future__ import annotations

from datetime import date

import pytest

from shared.messages.rule_facts import DonorFacts, Ground, RuleOutcome
from shared.rules.conditions import ContractExit, CoolOff, Dues, LegalHold, MinimumStay, OwnerChange
from shared.rules.predicates import Given, Predicate
from shared.rules.spans import Calendar
from tests.support.rule_boundaries import ASKED, Case, cases, port_facts

MADE = (
    MinimumStay(days=0),
    MinimumStay(days=1),
    MinimumStay(days=400),
    Dues(which="open"),
    Dues(which="overdue"),
    OwnerChange(),
    LegalHold(),
    ContractExit(),
    CoolOff(days=30),
)


@pytest.mark.parametrize(
    ("predicate", "case"), [(each, case) for each in MADE for case in cases(each, Calendar(zone="Asia/Kolkata"))]
)
def test_boundary(predicate: Predicate, case: Case) -> None:
    """Also of values that no shipped regime has."""
    found = tuple(predicate.judge(Given(case.facts, case.now, Calendar(zone="Asia/Kolkata"))))
    assert case.outcome in {each.outcome for each in found}


@pytest.mark.parametrize("predicate", MADE)
def test_nothing_is_known_before_the_donor_has_answered(predicate: Predicate) -> None:
    """And nothing is refused then."""
    [found] = predicate.judge(Given(port_facts(), ASKED))
    assert found.outcome is RuleOutcome.UNKNOWN


def test_the_evidence_names_the_first_day() -> None:
    """A tenant reads when it may leave."""
    stated = DonorFacts(contract_start=date(2026, 12, 31))
    [evidence] = MinimumStay(days=90).broken(stated, date(2027, 3, 1))
    assert evidence == "contract start 2026-12-31; the VM may leave from 2027-03-31, in 30 days"


def test_a_refusal_without_facts_is_void() -> None:
    """A donor that refuses for dues, and states none."""
    facts = port_facts(DonorFacts(), refused_on=(Ground.DUES,))
    [found] = Dues(which="open").judge(Given(facts, ASKED))
    assert found.outcome is RuleOutcome.UNLAWFUL
    assert found.void == {"dues_open"}


def test_the_longer_stay_is_the_stricter() -> None:
    """For the order of several regimes."""
    assert MinimumStay(days=90).strictness() < MinimumStay(days=30).strictness()
    assert Dues(which="open").strictness() < Dues(which="overdue").strictness()
