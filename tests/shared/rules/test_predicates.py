"""What all predicates have in common."""

from __future__ import annotations

from datetime import date

import pytest

from shared.messages.rule_facts import Ground, RuleOutcome
from shared.rules.predicates import Given, Predicate, later, unknown, unlawful
from tests.support.rule_boundaries import ASKED, port_facts


def test_a_day_beyond_the_calendar_is_the_last_one() -> None:
    """It is as good as never."""
    assert later(date(2026, 1, 1), 1) == date(2026, 1, 2)
    assert later(date(9999, 12, 1), 31) == date.max


def test_a_predicate_must_judge() -> None:
    """The base says nothing."""
    with pytest.raises(NotImplementedError):
        Predicate().judge(Given(port_facts(), ASKED))


def test_findings() -> None:
    """What is void is told by codes."""
    assert unlawful("why", Ground.DUES).void == {"dues_open"}
    assert unknown("the reason").outcome is RuleOutcome.UNKNOWN
