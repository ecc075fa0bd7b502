"""How rules look."""

from __future__ import annotations

from datetime import UTC, date, datetime
from io import StringIO
from uuid import UUID

from rich.console import Console
from rich.table import Table

from shared.client.rules_tables import applied_table, checked_tables, rule_tables, rules_table, validity
from shared.messages.rule_facts import AppliedRule, RuleOutcome
from shared.messages.rules import RulesChecked, ShownRule

RULE = ShownRule(
    regime="eu-data-act",
    rule="retrieval",
    clause="Art. 25(2)(g)",
    source="CELEX:32023R2854",
    region="EU (tenant)",
    valid_from=date(2025, 9, 12),
    binds="donor",
    kind="retrieval_min",
    limit="at least 30 days",
    code="retrieval_period",
    says="The donor keeps the data.",
    enforced=True,
)
APPLIED = AppliedRule(
    regime="eu-data-act",
    rule="notice",
    clause="eu-data-act, Art. 25(2)(d)",
    source="CELEX:32023R2854",
    binds="donor",
    outcome=RuleOutcome.UNLAWFUL,
    code="notice_too_long",
    says="At most two months.",
    evidence="a minimum stay \x1b[31muntil 2027-04-05",
    due_at=datetime(2026, 5, 1, tzinfo=UTC),
    facts_sha256="ab" * 32,
)


def text(*tables: Table) -> str:
    console = Console(file=StringIO(), width=240)
    for table in tables:
        console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_list_says_what_is_only_recorded() -> None:
    """Plainly."""
    shown = text(rules_table([RULE, RULE.model_copy(update={"rule": "register", "enforced": False})]))
    assert "recorded only" in shown
    assert "Art. 25(2)(g)" in shown
    assert "from 2025-09-12" in shown


def test_one_rule_in_full() -> None:
    """Clause, source, predicate with its limit."""
    shown = text(*rule_tables([RULE]))
    assert "retrieval_min (at least 30 days)" in shown
    assert "CELEX:32023R2854" in shown


def test_what_was_applied_shows_clause_evidence_and_the_hash() -> None:
    """A stranger's control characters are no control characters here."""
    shown = text(applied_table([APPLIED], title="rules that were applied"))
    assert "\x1b[31m" not in shown
    for part in ("unlawful", "Art. 25(2)(d)", "until 2027-04-05", "abababababab"):
        assert part in shown


def test_a_check() -> None:
    """Which regimes bind."""
    checked = RulesChecked(vm_uuid=UUID(int=1), donor="alpha", regimes=("eu-data-act",), rules=(APPLIED,))
    shown = text(*checked_tables(checked))
    assert "eu-data-act" in shown
    assert "open" in shown


def test_validity() -> None:
    """In one line."""
    ends = RULE.model_copy(update={"valid_to": date(2027, 1, 12)})
    always = RULE.model_copy(update={"valid_from": None})
    assert (validity(ends), validity(always)) == ("from 2025-09-12 to 2027-01-12", "always")
