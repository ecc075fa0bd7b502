"""Duties with a deadline. The boundaries are made from the regimes that ship: test_regime_files."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.messages.rule_facts import DonorFacts, RuleOutcome
from shared.rules.deadlines import EraseAfter, Extension, PortWithin, RetrievalMin, TransitionMax, Withdrawal
from shared.rules.predicates import Given, Predicate
from shared.rules.spans import USUAL, Span
from tests.support.rule_boundaries import ASKED, Case, cases, port_facts

MADE = (
    TransitionMax(at_most=Span(hours=1)),
    PortWithin(at_most=Span(seconds=10)),
    RetrievalMin(at_least=Span(seconds=1)),
    EraseAfter(retrieval=Span(seconds=5), within=Span(hours=1)),
    Extension(times=1, beyond=Span(days=1)),
    Withdrawal(within=Span(hours=24)),
)


@pytest.mark.parametrize(("predicate", "case"), [(each, case) for each in MADE for case in cases(each, USUAL)])
def test_boundary(predicate: Predicate, case: Case) -> None:
    """Also of values that no shipped regime has."""
    [found] = predicate.judge(Given(case.facts, case.now))
    assert found.outcome is case.outcome


def test_the_transition_begins_when_the_notice_ends() -> None:
    """As the donor demands it."""
    [found] = TransitionMax(at_most=Span(days=30)).judge(Given(port_facts(DonorFacts(notice_days=10)), ASKED))
    assert found.due_at == ASKED + timedelta(days=40)


def test_a_window_of_the_tenant_extends_the_transition() -> None:
    """Until the deadline that was agreed on."""
    far = {"window_start": ASKED + timedelta(days=50), "deadline": ASKED + timedelta(days=51)}
    [found] = TransitionMax(at_most=Span(days=30)).judge(Given(port_facts(DonorFacts(), **far), ASKED))
    assert (found.outcome, found.due_at) == (RuleOutcome.DUE, far["deadline"])


def test_a_port_is_counted_from_the_day_that_the_tenant_wants() -> None:
    """A window of next week is not late."""
    wanted = ASKED + timedelta(days=7)
    [found] = PortWithin(at_most=Span(hours=1)).judge(Given(port_facts(DonorFacts(), wanted_start=wanted), ASKED))
    assert found.due_at == wanted + timedelta(hours=1)


def test_a_port_that_ended_is_not_overdue() -> None:
    """Nothing is left to be done in time."""
    [found] = PortWithin(at_most=Span(hours=1)).judge(
        Given(port_facts(DonorFacts(), ended_at=ASKED), ASKED + timedelta(days=1))
    )
    assert found.outcome is RuleOutcome.MET


@pytest.mark.parametrize(
    "predicate", [RetrievalMin(at_least=Span(days=1)), EraseAfter(retrieval=Span(days=1), within=Span(days=1))]
)
def test_nothing_is_due_before_the_vm_has_left(predicate: Predicate) -> None:
    """The time begins with the switch."""
    [found] = predicate.judge(Given(port_facts(DonorFacts()), ASKED))
    assert found.outcome is RuleOutcome.UNKNOWN
