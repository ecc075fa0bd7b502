"""The rules of a port as it goes on: what is known is judged again at each step that adds to it. Pure.

What a donor demands against a rule is told to it at once, and is void for this port. A duty with a deadline is looked
at when its time has come; one that was not done calls an operator.
"""

from __future__ import annotations

from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import Effect, RuleBroken, Send
from services.broker.saga.events import RuleDue
from shared.messages import Refusal
from shared.messages.rule_facts import AppliedRule, RuleOutcome
from shared.messages.rules import DemandRefused
from shared.messages.service_change import PortPhase
from shared.rules.demands import void_code
from shared.rules.evaluate import Verdict, evaluate

MAX_CODES = 64
"""Of one message."""


def judge(at: Moment, **known: object) -> tuple[Moment, Verdict, tuple[Effect, ...]]:
    """Judge the port with what has become known. The effects tell the donor, and the record, what is void."""
    rules = at.state.rules
    if rules.facts is None:
        return at, Verdict(), ()
    facts = rules.facts.known(**known)
    verdict = evaluate(rules.regimes, facts, at.now)
    new = [each for each in verdict.void if f"{each.regime}:{each.rule}:{each.refusal.evidence}" not in rules.told]
    told = tuple(f"{each.regime}:{each.rule}:{each.refusal.evidence}" for each in new)
    codes = tuple(sorted({*rules.void, *verdict.void_codes}))
    effects: tuple[Effect, ...] = tuple(
        RuleBroken(each.regime, each.rule, "unlawful", str(each.refusal)) for each in new
    )
    if new:
        message = DemandRefused(
            port_id=at.state.port_id, refusals=tuple(each.refusal for each in new), void=codes[:MAX_CODES]
        )
        effects = (Send(at.state.donor_party, message), *effects)
    after = rules.with_(
        facts=facts,
        applied=verdict.applied,
        charges=verdict.charges,
        void=codes,
        told=(*rules.told, *told),
        keep_until=verdict.keep_until or rules.keep_until,
    )
    return at.with_(rules=after), verdict, effects


def split(refusals: tuple[Refusal, ...], verdict: Verdict) -> tuple[tuple[Refusal, ...], tuple[Refusal, ...]]:
    """A donor's refusals: those that have force, and those that have none."""
    void = verdict.void_codes
    with_force = tuple(each for each in refusals if void_code(each) not in void)
    return with_force, tuple(each for each in refusals if void_code(each) in void)


def ended(at: Moment, phase: PortPhase) -> Moment:
    """The same moment when the port ends in this phase."""
    if phase is PortPhase.COMPLETED:
        return judge(at)[0]
    withdrawn = {"withdrawn_at": at.now} if phase is PortPhase.CANCELLED else {}
    return judge(at, ended_at=at.now, **withdrawn)[0]


def time_passed(at: Moment, event: RuleDue) -> Decision:
    """A duty's time has come: judge again, and call an operator for what was not done."""
    rules = at.state.rules
    if rules.due_at is None or at.now < rules.due_at:
        return at.ignore("no duty is due")
    open_before = {(each.regime, each.rule) for each in rules.applied if each.outcome is RuleOutcome.DUE}
    known = {"ported_at": event.ported_at} if event.ported_at is not None else {}
    after, _, effects = judge(at, **known)
    overdue = [
        each
        for each in after.state.rules.applied
        if each.outcome is RuleOutcome.OVERDUE and (each.regime, each.rule) in open_before
    ]
    broken = tuple(RuleBroken(each.regime, each.rule, "overdue", _overdue(each)) for each in overdue)
    note = "; ".join(_overdue(each) for each in overdue) or "a duty's time is over"
    return after.stay(*effects, *broken, note=note)


def _overdue(rule: AppliedRule) -> str:
    return f"{rule.code}: {rule.says} ({rule.evidence}) [{rule.clause}]"


def before(decision: Decision, effects: tuple[Effect, ...]) -> Decision:
    """The decision, with what `judge` asked for done first."""
    return decision.after(*effects, note=decision.note)
