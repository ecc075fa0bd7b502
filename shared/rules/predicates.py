"""What a predicate is: what it is given, and what it finds. Pure. The predicates themselves are in `conditions`,
`demands` and `deadlines`; `kinds` joins them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from shared.messages.rule_facts import DonorFacts, Ground, RuleOutcome
from shared.rules.facts import PortFacts
from shared.rules.spans import USUAL, Calendar, Part


@dataclass(frozen=True, slots=True)
class Found:
    """What one predicate finds in the facts."""

    outcome: RuleOutcome
    evidence: str
    due_at: datetime | None = None
    void: frozenset[str] = frozenset()
    """Codes of the donor's refusals that have no force by this finding."""
    order: float = 0.0
    """Of two findings of one predicate the smaller is the stricter."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a predicate is given."""

    facts: PortFacts
    now: datetime
    calendar: Calendar = USUAL

    @property
    def today(self) -> date:
        """The day in the regime's zone."""
        return self.calendar.day(self.now)

    @property
    def donor(self) -> DonorFacts | None:
        """What the donor has stated; None while it has not."""
        return self.facts.donor_facts

    def refused_on(self, ground: Ground) -> bool:
        """Whether the donor has refused on this ground."""
        return ground in self.facts.refused_on


class Predicate(Part):
    """One of the closed set. A subclass has a ``kind`` and its values."""

    def limit(self) -> str:
        """The values in words."""
        return ""

    def scope(self) -> str:
        """What else tells two predicates of one kind apart: only those of one scope are measured against each other."""
        return ""

    def judge(self, given: Given) -> Iterable[Found]:
        """What the facts say; nothing where the predicate has nothing to say."""
        raise NotImplementedError


def met(evidence: str, *, order: float = 0.0) -> Found:
    """The rule holds."""
    return Found(RuleOutcome.MET, evidence, order=order)


def refused(evidence: str, *, order: float = 0.0) -> Found:
    """The tenant's port is refused."""
    return Found(RuleOutcome.REFUSED, evidence, order=order)


def unlawful(evidence: str, *void: str, order: float = 0.0) -> Found:
    """The provider's demand is refused."""
    return Found(RuleOutcome.UNLAWFUL, evidence, void=frozenset(void), order=order)


def unknown(what: str) -> Found:
    """A fact is missing."""
    return Found(RuleOutcome.UNKNOWN, f"{what} is not known")


def duty(given: Given, due_at: datetime, evidence: str, done_at: datetime | None) -> Found:
    """Due, met, or overdue. At the very end of the time it is still met."""
    order = due_at.timestamp()
    if done_at is not None and done_at <= due_at:
        return Found(RuleOutcome.MET, f"{evidence}; done at {done_at}", order=order)
    if done_at is not None:
        return Found(RuleOutcome.OVERDUE, f"{evidence}; done only at {done_at}", order=order)
    outcome = RuleOutcome.OVERDUE if given.now > due_at else RuleOutcome.DUE
    return Found(outcome, evidence, due_at, order=order)


def later(day: date, days: int) -> date:
    """So many days later; the last day that a date can say is as good as never."""
    return date.max if days > (date.max - day).days else day + timedelta(days=days)
