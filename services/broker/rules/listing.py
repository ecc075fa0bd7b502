"""Rules as tenants see them: a list, and what they would say of one VM now. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from services.broker.rules.book import RuleBook
from shared.messages import Refusal
from shared.messages.rule_facts import DonorFacts
from shared.messages.rules import RulesChecked, RulesListed, ShownRule
from shared.parties import Name
from shared.rules.evaluate import bound, evaluate
from shared.rules.regime import Regime, Rule


def listed(regimes: Iterable[Regime], *, name: str | None = None, code: str | None = None) -> RulesListed:
    """All rules, or those of one regime, or of one id or code."""
    found = (
        shown(regime, rule)
        for regime in regimes
        if name in {None, regime.name}
        for rule in regime.rules
        if code in {None, rule.id, rule.code}
    )
    return RulesListed(rules=tuple(found))


def shown(regime: Regime, rule: Rule) -> ShownRule:
    """One rule, with its predicate in words."""
    return ShownRule(
        regime=regime.name,
        rule=rule.id,
        clause=rule.clause,
        source=rule.source or regime.source,
        region=_where(regime, rule),
        valid_from=rule.valid_from,
        valid_to=rule.valid_to,
        binds=rule.binds,
        kind=rule.when.kind,
        limit=rule.when.limit(),
        code=rule.code,
        says=rule.says,
        enforced=rule.enforced,
        note=rule.note,
    )


def _where(regime: Regime, rule: Rule) -> str:
    """The region, of which party it is asked, and what narrows it."""
    words = [f"{regime.region} ({' or '.join(regime.region_of)})"]
    if rule.only_in:
        words.append(f"only in {', '.join(rule.only_in)}")
    if rule.not_in:
        words.append(f"not in {', '.join(rule.not_in)}")
    if rule.across is not None:
        words.append("between areas" if rule.across else "within an area")
    if rule.not_for:
        words.append(f"not for {', '.join(rule.not_for)}")
    return "; ".join(words)


def checked(
    book: RuleBook,
    *,
    vm_uuid: UUID,
    tenant: Name,
    donor: Name,
    recipient: Name | None,
    stated: DonorFacts | None,
    refusals: tuple[Refusal, ...],
    now: datetime,
) -> RulesChecked:
    """What the rules would say of a port of this VM that is asked for now, if the donor answers as it has just done."""
    facts = book.facts(vm_uuid=vm_uuid, tenant=tenant, donor=donor, recipient=recipient, requested_at=now)
    facts = facts.known(donor_facts=stated)
    if refusals:
        codes = tuple(dict.fromkeys(each.code for each in refusals))
        silent = not any(each.evidence for each in refusals)
        facts = facts.known(refused_on=codes, refused_at=now, refused_without_reason=silent)
    return RulesChecked(
        vm_uuid=vm_uuid,
        donor=donor,
        recipient=recipient,
        regimes=tuple(each.name for each in bound(book.regimes, facts)),
        rules=evaluate(book.regimes, facts, now).applied,
    )
