"""Cells of the chaos run: one fault at one phase of a port, what came of it, and whether that is right. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """The instants of a port at which faults happen, in their order."""

    BEFORE_WINDOW = "before-window"
    """Agreed; the window has not opened."""
    DISKS = "disks"
    MEMORY = "memory"
    FINISH_ASKED = "finish-asked"
    """Everything is sent and the guest is frozen at the donor; the broker has not committed."""
    COMMITTED = "committed"
    """The ledger says recipient; the recipient does not know it yet."""
    ARRIVED = "arrived"
    """The guest runs at the recipient; the donor does not know it yet."""
    FINISHING = "finishing"
    """The broker waits for the donor's disconnection and the recipient's provisioning."""


CONNECTIONS = 50
SWITCHED = frozenset({Phase.COMMITTED, Phase.ARRIVED, Phase.FINISHING})
"""The phases after the commit."""


@dataclass(frozen=True)
class Cell:
    """What came of one fault at one phase. `seconds` is the time of the whole cell."""

    fault: str
    phase: str
    outcome: str
    """How the port ended, by the broker's record; its last phase where it did not end."""
    running_copies: int
    """Copies that run at the end; 2 also where two ran at once at any time in between."""
    mismatches: int | None
    """Pages and blocks that the guest found changed; None where it does not answer."""
    disk_identical: bool | None
    leftovers: tuple[str, ...]
    states_agree: bool
    seconds: float
    detail: str = ""
    connections_kept: int | None = None
    """Of a client's `CONNECTIONS` over TCP; None where none were watched, or the fault itself ended the guest."""
    allowed: tuple[str, ...] = ("completed", "failed")
    """Outcomes that are right for this fault at this phase."""

    def problems(self) -> list[str]:
        """What is wrong, a few words each; empty for a good cell."""
        found = []
        if self.outcome not in self.allowed:
            found.append(f"the port ended {self.outcome}, not {' or '.join(self.allowed)}")
        if self.running_copies != 1:
            found.append(f"{self.running_copies} copies run")
        if self.mismatches != 0:
            found.append("the guest does not answer" if self.mismatches is None else f"{self.mismatches} mismatches")
        if self.disk_identical is not True:
            found.append("disks could not be compared" if self.disk_identical is None else "disks differ")
        if self.connections_kept not in {None, CONNECTIONS}:
            found.append(f"{self.connections_kept} of {CONNECTIONS} connections live")
        found += [f"left: {thing}" for thing in self.leftovers]
        if not self.states_agree:
            found.append("the parties' states differ")
        return found


def to_json(cells: Iterable[Cell]) -> str:
    """The list that `--json` writes."""
    return json.dumps([{**asdict(cell), "problems": cell.problems()} for cell in cells], indent=1) + "\n"


def from_json(text: str) -> list[Cell]:
    """Read what `to_json` wrote. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
    listed: list[dict[str, Any]] = json.loads(text)
    cells = []
    for entry in listed:
        facts = {key: value for key, value in entry.items() if key != "problems"}
        cells.append(
            Cell(**{**facts, "leftovers": tuple(facts["leftovers"]), "allowed": tuple(facts.get("allowed", ()))})
        )
    return cells


def table(cells: Sequence[Cell]) -> str:
    """A Markdown table: a row per fault, a column per phase; below it every bad cell with its problems."""
    phases = [phase for phase in Phase if any(cell.phase == phase for cell in cells)]
    found = {(cell.fault, cell.phase): cell for cell in cells}
    lines = ["| fault | " + " | ".join(phases) + " |", "|---" * (len(phases) + 1) + "|"]
    lines += [
        f"| {fault} | " + " | ".join(_word(found.get((fault, phase))) for phase in phases) + " |"
        for fault in dict.fromkeys(cell.fault for cell in cells)
    ]
    bad = [cell for cell in cells if cell.problems()]
    lines += ["", f"{len(cells)} cells, {len(cells) - len(bad)} good, {sum(cell.seconds for cell in cells):.0f} s."]
    lines += [f"- **{cell.fault}, {cell.phase}**: {'; '.join(cell.problems())}" for cell in bad]
    return "\n".join(lines) + "\n"


def _word(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return "**BAD**" if cell.problems() else f"{cell.outcome}, {cell.seconds:.0f} s"
