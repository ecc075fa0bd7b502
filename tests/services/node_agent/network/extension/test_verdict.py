"""Verdicts are few and are made once."""

from __future__ import annotations

from services.node_agent.network.extension.verdict import DROPPED, Dropped, Reason


def test_each_reason_has_its_verdict() -> None:
    """There is one for each, with that reason."""
    assert {reason: Dropped(reason) for reason in Reason} == DROPPED
