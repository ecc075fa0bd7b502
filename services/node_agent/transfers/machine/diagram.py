"""The machine's two diagrams in mermaid, drawn from the tables, so that they cannot differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.node_agent.transfers.machine.state import DonorPhase, RecipientPhase
from services.node_agent.transfers.machine.table import DONOR, RECIPIENT, On


def mermaid(table: Mapping[Any, tuple[On, ...]], start: DonorPhase | RecipientPhase) -> str:
    """One side's diagram, ending in a newline."""
    lines = ["stateDiagram-v2", f"    [*] --> {start}: opened"]
    for phase, row in table.items():
        for target, labels in _edges(row).items():
            lines.append(f"    {phase} --> {target}: {', '.join(labels)}")
    lines += [f"    {phase} --> [*]" for phase in (DonorPhase.LEFT, DonorPhase.STAYED) if phase in table]
    lines += [f"    {phase} --> [*]" for phase in (RecipientPhase.ARRIVED, RecipientPhase.GONE) if phase in table]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The document ``services/node_agent/transfers/machine.md``."""
    lines = [
        "# Who may run the guest",
        "",
        "Generated from `services/node_agent/transfers/machine/table.py`, whose text explains it; a test holds them",
        "equal and says how to write it again.",
    ]
    for title, table, start in (
        ("The donor's side", DONOR, DonorPhase.MOVING),
        ("The recipient's side", RECIPIENT, RecipientPhase.WAITING),
    ):
        lines += ["", f"## {title}", "", "```mermaid", mermaid(table, start).rstrip("\n"), "```"]
    return "\n".join(lines) + "\n"


def _edges(row: tuple[On, ...]) -> dict[DonorPhase | RecipientPhase, list[str]]:
    edges: dict[DonorPhase | RecipientPhase, list[str]] = {}
    for line in row:
        for target in line.to:
            edges.setdefault(target, []).append(line.event.__name__)
    return edges
