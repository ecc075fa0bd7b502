"""Which node takes a VM."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.recipient_agent.capacity import Room
from services.recipient_agent.placement import MAX_REFUSALS, Candidate, NotPlaced, Placed, place
from services.recipient_agent.quote_lines import Lines
from services.recipient_agent.testing import make_vm
from shared.messages.base import Refusal
from shared.messages.quote_lines import Part, QuoteLine

NO = Refusal(code="memory_short", rule="r", evidence="e")


def room(memory: int) -> Room:
    """A room with so much memory."""
    return Room(1, memory, 1)


def test_most_free_memory_wins_then_the_name() -> None:
    """Load spreads, and the same question has the same answer."""
    assert place(make_vm(), [Candidate("a", room(1)), Candidate("b", room(2))]) == Placed("b")
    assert place(make_vm(), [Candidate("b", room(2)), Candidate("a", room(2))]) == Placed("a")


def test_what_a_quote_said_goes_before_room() -> None:
    """The tenant took the offer for it."""
    told = Lines(kept=(QuoteLine(part=Part.VLAN, text="VLAN 42"),))
    candidates = [Candidate("a", room(1), lines=told), Candidate("b", room(2))]

    assert place(make_vm(), candidates, promised=told) == Placed("a")
    assert place(make_vm(), candidates) == Placed("b")


def test_a_node_with_a_refusal_is_never_chosen() -> None:
    """However much room it has."""
    assert place(make_vm(), [Candidate("a", room(1)), Candidate("b", room(9), (NO,))]) == Placed("a")


def test_without_a_node_the_reason_is_given() -> None:
    """No node, or none that fits: the findings of all, each once."""
    nobody = place(make_vm(), [])
    assert isinstance(nobody, NotPlaced)
    assert [refusal.code for refusal in nobody.refusals] == ["no_node"]
    assert place(make_vm(), [Candidate("a", room(1), (NO, NO)), Candidate("b", room(1), (NO,))]) == NotPlaced((NO,))


def test_findings_are_bounded() -> None:
    """A provider with many nodes does not fill a ledger."""
    many = [Candidate(f"n{n}", room(1), (Refusal(code="memory_short", rule="r", evidence=str(n)),)) for n in range(200)]
    placed = place(make_vm(), many)
    assert isinstance(placed, NotPlaced)
    assert len(placed.refusals) == MAX_REFUSALS


@given(st.permutations([Candidate(name, room(memory)) for name, memory in (("a", 3), ("b", 5), ("c", 5), ("d", 1))]))
def test_order_of_nodes_does_not_matter(candidates: list[Candidate]) -> None:
    """The choice depends on the nodes, not on how they are listed."""
    assert place(make_vm(), candidates) == Placed("b")
