"""The question for the donor's copy."""

from __future__ import annotations

from uuid import UUID

from shared.messages.switchover import CopyState, QueryCopy
from shared.parties import Role


def test_only_the_broker_asks_and_only_nodes_answer() -> None:
    """Both are urgent: a guest stands still."""
    asked, answer = QueryCopy(port_id=UUID(int=1), vm_uuid=UUID(int=2)), CopyState(port_id=UUID(int=1), let_go=True)
    assert (frozenset({Role.BROKER}), frozenset({Role.NODE})) == (asked.SENDERS, asked.RECEIVERS)
    assert (frozenset({Role.NODE}), frozenset({Role.BROKER})) == (answer.SENDERS, answer.RECEIVERS)
    assert asked.URGENT
    assert answer.URGENT
