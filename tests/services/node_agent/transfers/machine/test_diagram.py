"""The machine's diagrams and their document."""

from __future__ import annotations

from pathlib import Path

import services.node_agent.transfers.machine
from services.node_agent.transfers.machine.diagram import markdown, mermaid
from services.node_agent.transfers.machine.state import DonorPhase, RecipientPhase
from services.node_agent.transfers.machine.table import DONOR, RECIPIENT

REWRITE = "python -c 'from services.node_agent.transfers.machine.diagram import markdown; print(markdown(), end=\"\")'"


def test_the_document_is_the_committed_one() -> None:
    """The pictures are drawn from these tables."""
    assert services.node_agent.transfers.machine.__file__ is not None
    committed = Path(services.node_agent.transfers.machine.__file__).parents[1] / "machine.md"
    assert committed.read_text() == markdown(), f"write it again: {REWRITE} > {committed}"


def test_each_side_has_its_own_picture() -> None:
    """With its start and its ends."""
    donor = mermaid(DONOR, DonorPhase.MOVING)
    assert "[*] --> moving: opened" in donor
    assert "freezing --> undecided: Frozen, FreezeFailed" in donor
    assert "left --> [*]" in donor
    recipient = mermaid(RECIPIENT, RecipientPhase.WAITING)
    assert "accepting --> starting: Stored" in recipient
    assert "gone --> [*]" in recipient
    assert "left" not in recipient
