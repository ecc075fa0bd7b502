"""The saga's diagram and document."""

from __future__ import annotations

from pathlib import Path

import services.broker
from services.broker.saga.diagram import markdown, mermaid


def test_diagram_is_the_committed_one() -> None:
    """The picture in the documents is drawn from this table."""
    assert services.broker.__file__ is not None
    committed = Path(services.broker.__file__).parent / "saga.md"
    assert committed.read_text() == markdown()
    assert "transferring --> switching: GuestPaused, RequestSwitchover" in mermaid()
