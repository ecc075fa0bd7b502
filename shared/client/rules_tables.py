"""How rules look to people: the list, one rule, what they say of a VM or of a port. Pure: values in, tables out."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from shared.client.render import facts_table, human_time, make_table, plain
from shared.messages.rule_facts import AppliedRule, RuleOutcome
from shared.messages.rules import RulesChecked, ShownRule

_COLOURS = {
    RuleOutcome.MET: "green",
    RuleOutcome.REFUSED: "red",
    RuleOutcome.UNLAWFUL: "red",
    RuleOutcome.OVERDUE: "red",
    RuleOutcome.UNKNOWN: "yellow",
}


def rules_table(rules: Sequence[ShownRule]) -> Table:
    """``rules list``."""
    table = make_table("REGIME", "RULE", "CLAUSE", "BINDS", "VALID", "ENFORCED", "SAYS")
    for rule in rules:
        table.add_row(
            rule.regime,
            rule.rule,
            plain(rule.clause),
            rule.binds,
            validity(rule),
            "yes" if rule.enforced else "recorded only",
            plain(rule.says),
        )
    return table


def validity(rule: ShownRule) -> str:
    """From when to when; ``to`` is the first day on which it no longer holds."""
    if rule.valid_from is None and rule.valid_to is None:
        return "always"
    begins = f"from {rule.valid_from}" if rule.valid_from else ""
    ends = f"to {rule.valid_to}" if rule.valid_to else ""
    return f"{begins} {ends}".strip()


def rule_tables(rules: Sequence[ShownRule]) -> list[Table]:
    """``rules explain``: each rule with all that is known of it."""
    return [
        facts_table(
            f"{rule.regime}: {rule.rule}",
            (
                ("says", plain(rule.says)),
                ("clause", plain(rule.clause)),
                ("source", plain(rule.source)),
                ("where", plain(rule.region)),
                ("valid", validity(rule)),
                ("binds", rule.binds),
                ("predicate", plain(f"{rule.kind} ({rule.limit})" if rule.limit else rule.kind)),
                ("code", rule.code),
                ("enforced", "yes" if rule.enforced else "no: the broker only records that it binds"),
                ("note", plain(rule.note) if rule.note else None),
            ),
        )
        for rule in rules
    ]


def checked_tables(checked: RulesChecked) -> list[Table]:
    """``rules check``."""
    facts = facts_table(
        None,
        (
            ("vm", checked.vm_uuid),
            ("from", checked.donor),
            ("to", checked.recipient or "open"),
            ("regimes", ", ".join(checked.regimes)),
        ),
    )
    return [facts, applied_table(checked.rules)]


def applied_table(rules: Sequence[AppliedRule], *, title: str | None = None) -> Table:
    """What came of each rule. FACTS is the beginning of the hash of the facts that were judged."""
    table = make_table("OUTCOME", "CODE", "CLAUSE", "BINDS", "FOUND", "DUE", "FACTS", title=title)
    for rule in rules:
        table.add_row(
            Text(rule.outcome.value, style=_COLOURS.get(rule.outcome, "")),
            rule.code,
            plain(rule.clause),
            rule.binds,
            plain(rule.evidence),
            human_time(rule.due_at) if rule.due_at else "",
            rule.facts_sha256[:12],
        )
    return table
