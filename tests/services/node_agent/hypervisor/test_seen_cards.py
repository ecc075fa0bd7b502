"""Cards are known by their place and MAC: a card that was plugged in or out meanwhile is taken for no other."""

from __future__ import annotations

from services.node_agent.hypervisor.seen_cards import SeenCard, SeenCards

FIRST, SECOND = "52:54:00:00:00:10", "52:54:00:00:00:11"


def test_a_card_at_its_place() -> None:
    seen = SeenCards((SeenCard(FIRST, leased=("10.0.0.1",)), SeenCard(SECOND)))
    assert seen.at(0, FIRST).leased == ("10.0.0.1",)
    assert seen.at(1, FIRST) == SeenCard(FIRST)
    assert seen.at(2, SECOND) == SeenCard(SECOND)
