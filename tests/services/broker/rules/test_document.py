"""The document that tenants and operators read."""

from __future__ import annotations

from pathlib import Path

from services.broker.rules.document import markdown
from services.broker.rules.regime_files import load

COMMITTED = Path(__file__).parents[4] / "docs" / "rules.md"


def test_document_is_the_committed_one() -> None:
    """It is made from the data that decide."""
    assert COMMITTED.read_text() == markdown(load())


def test_every_rule_is_in_the_document() -> None:
    """With its clause, its words, and whether the broker only records it."""
    text = markdown(load())
    for regime in load():
        for rule in regime.rules:
            assert rule.says in text
            assert f"| {rule.clause} |" in text
    assert "| recorded |" in text
