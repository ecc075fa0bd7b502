"""What a port carries of the rules."""

from __future__ import annotations

from services.broker.saga.port_rules import NO_RULES, PortRules
from shared.messages.rule_facts import RuleOutcome
from tests.services.broker.saga.test_approving import asked
from tests.support.port_rules import rules


def test_it_is_read_back_as_it_was_saved() -> None:
    """With every regime and its predicates."""
    carried = rules(tenant="EU", donor="IN", recipient="UK")
    assert PortRules.model_validate_json(carried.model_dump_json()) == carried


def test_the_next_duty() -> None:
    """The earliest time of what is due; what is overdue was told."""
    state = asked(donor="UK").state.rules
    assert state.due_at is not None
    overdue = [each.model_copy(update={"outcome": RuleOutcome.OVERDUE}) for each in state.applied]
    assert state.with_(applied=tuple(overdue)).due_at is None
    assert NO_RULES.due_at is None
