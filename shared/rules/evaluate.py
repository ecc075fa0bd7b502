"""The evaluator: facts, rules and time in; refusals, void demands and duties out. Pure.

Several regimes may bind one port. Rules of one predicate that bind the same party are measured against each other: the
strictest decides, and its result names the clauses of all of them. A rule that is not the strictest is in the result
with its own outcome, so that the record is complete; it refuses nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.messages.base import Refusal
from shared.messages.rule_facts import MAX_RULES, AppliedRule, Charge, RuleOutcome
from shared.rules.deadlines import RetrievalMin
from shared.rules.demands import ChargeBan, ChargeCap
from shared.rules.facts import PortFacts
from shared.rules.predicates import Found, Given
from shared.rules.regime import Regime, Rule
from shared.rules.spans import Calendar

FALLBACK = "default"
"""The regime that binds a port which no other one binds."""

_WEIGHT = {
    RuleOutcome.UNLAWFUL: 0,
    RuleOutcome.REFUSED: 1,
    RuleOutcome.OVERDUE: 2,
    RuleOutcome.DUE: 3,
    RuleOutcome.UNKNOWN: 4,
    RuleOutcome.MET: 5,
    RuleOutcome.RECORDED: 6,
}


@dataclass(frozen=True, slots=True)
class BoundRule:
    """A rule that is in force, with its regime's name and calendar."""

    regime: str
    source: str
    calendar: Calendar
    rule: Rule

    @property
    def clause(self) -> str:
        """The clause with its regime."""
        return f"{self.regime}, {self.rule.clause}"


@dataclass(frozen=True, slots=True)
class Void:
    """What a donor demanded or did against a rule: told to it, and without force."""

    regime: str
    rule: str
    refusal: Refusal
    codes: frozenset[str]
    """Codes of the donor's refusals that have no force."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of a port at one moment."""

    applied: tuple[AppliedRule, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    """Why the tenant's port is refused; empty: no rule refuses it."""
    void: tuple[Void, ...] = ()
    charges: tuple[Charge, ...] = ()
    """The donor's charges that no rule forbids."""
    keep_until: datetime | None = None
    """Until when the donor must keep the VM's data, once the VM has left."""

    @property
    def void_codes(self) -> frozenset[str]:
        """Codes of the donor's refusals that have no force."""
        return frozenset(code for each in self.void for code in each.codes)


def bound(regimes: Iterable[Regime], facts: PortFacts) -> tuple[Regime, ...]:
    """The regimes that bind a port of these parties; the fallback where no other one does."""
    known = tuple(regimes)
    binding = tuple(each for each in known if each.name != FALLBACK and each.binds(facts))
    return binding or tuple(each for each in known if each.name == FALLBACK)


def evaluate(regimes: Iterable[Regime], facts: PortFacts, now: datetime) -> Verdict:
    """Judge a port by the regimes that bind it."""
    rules = [
        BoundRule(regime.name, rule.source or regime.source, regime.calendar, rule)
        for regime in bound(regimes, facts)
        for rule in regime.in_force(facts, now)
    ]
    groups: dict[tuple[str, str, str], list[BoundRule]] = {}
    for each in rules:
        groups.setdefault(_measured_with(each.rule), []).append(each)
    digest = facts.sha256
    applied: list[AppliedRule] = []
    refusals: list[Refusal] = []
    void: list[Void] = []
    keep: list[datetime] = []
    for members in groups.values():
        judged = _judged(members, facts, now)
        for one in judged:
            applied.append(_line(one, one.found, digest))
            lines = [_line(one, (found,), digest) for found in one.found]
            made = [Refusal(code=x.code, rule=x.says, evidence=x.evidence, clause=x.clause) for x in lines]
            for found, refusal in zip(one.found, made, strict=True):
                if found.outcome is RuleOutcome.UNLAWFUL and not _outweighed(judged):
                    void.append(Void(one.bound.regime, one.bound.rule.id, refusal, found.void))
                elif found.outcome is RuleOutcome.REFUSED and one.decides:
                    refusals.append(refusal)
                if isinstance(one.bound.rule.when, RetrievalMin) and found.due_at is not None:
                    keep.append(found.due_at)
    return Verdict(
        applied=tuple(applied[:MAX_RULES]),
        refusals=tuple(refusals),
        void=tuple(void),
        charges=_lawful(rules, facts),
        keep_until=max(keep, default=None),
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    bound: BoundRule
    found: tuple[Found, ...]
    clause: str
    decides: bool


def _measured_with(rule: Rule) -> tuple[str, str, str]:
    return rule.when.kind, rule.binds, rule.when.scope() if rule.enforced else rule.id


def _judged(members: Sequence[BoundRule], facts: PortFacts, now: datetime) -> list[_Judged]:
    """Each rule of a group with what it finds, the strictest first."""
    pairs = []
    for each in members:
        found = tuple(each.rule.when.judge(Given(facts, now, each.calendar)))
        if found:
            pairs.append((each, tuple(sorted(found, key=lambda one: _WEIGHT[one.outcome]))))
    pairs.sort(key=lambda pair: _strictness(pair[1][0]))
    clauses = [each.clause for each, _ in pairs]
    return [
        _Judged(each, found, _named(clauses) if place == 0 else each.clause, decides=place == 0)
        for place, (each, found) in enumerate(pairs)
    ]


def _strictness(found: Found) -> tuple[bool, float, int]:
    return found.outcome is RuleOutcome.UNKNOWN, found.order, _WEIGHT[found.outcome]


def _outweighed(judged: Sequence[_Judged]) -> bool:
    """Whether a stricter rule of the group refuses the port, so that the donor's refusal has force after all."""
    return judged[0].found[0].outcome is RuleOutcome.REFUSED


def _named(clauses: Sequence[str]) -> str:
    first, *others = clauses
    return f"{first}; also {', '.join(others)}" if others else first


def _line(judged: _Judged, found: Sequence[Found], digest: str) -> AppliedRule:
    """The rule's line; it has the gravest outcome, and all evidence for it."""
    rule, gravest = judged.bound.rule, found[0]
    return AppliedRule(
        regime=judged.bound.regime,
        rule=rule.id,
        clause=judged.clause,
        source=judged.bound.source,
        binds=rule.binds,
        outcome=gravest.outcome,
        code=rule.code,
        says=rule.says,
        evidence="; ".join(each.evidence for each in found if each.outcome is gravest.outcome),
        due_at=gravest.due_at,
        facts_sha256=digest,
    )


def _lawful(rules: Sequence[BoundRule], facts: PortFacts) -> tuple[Charge, ...]:
    """Charges that no rule forbids."""
    if facts.donor_facts is None:
        return ()
    limits = [each.rule.when for each in rules if isinstance(each.rule.when, ChargeBan | ChargeCap)]
    return tuple(c for c in facts.donor_facts.charges if not any(limit.forbids(c) for limit in limits))
