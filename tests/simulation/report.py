"""What a schedule showed: violations, cells, and a chart of it. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.simulation.faults import Plan

SHOWN = ("tenant", "broker", "donor", "recipient", "alpha", "beta")


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold, once per rule and schedule."""

    rule: str
    detail: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened: a message (`source`, `to`), or else a note over `source`."""

    at_s: float
    source: str
    to: str
    text: str


@dataclass(slots=True)
class Outcome:
    """The result of one schedule."""

    plan: Plan
    violations: list[Violation] = field(default_factory=list)
    cells: set[tuple[str, str, str]] = field(default_factory=set)
    lines: list[Line] = field(default_factory=list)
    ended: str = ""
    settled: bool = False
    """An operator had to say whose the VM is."""
    steps: int = 0
    digest: int = 0
    """Of all steps in their order: equal for two runs of a seed."""

    def to_json(self) -> dict[str, Any]:
        """For the report's file."""
        return {
            "seed": self.plan.seed,
            "plan": self.plan.to_json(),
            "ended": self.ended,
            "settled": self.settled,
            "violations": [f"{each.rule}: {each.detail} (at {each.at_s:.2f} s)" for each in self.violations],
        }


def chart(outcome: Outcome) -> str:
    """A Mermaid sequence chart: messages as arrows, vCPUs as bars, faults and epochs as notes."""
    lines = ["sequenceDiagram", *(f"  participant {name}" for name in SHOWN)]
    lines.append("  activate alpha")
    running = {"alpha"}
    for line in outcome.lines:
        if line.text in {"runs", "stands"}:
            if (line.text == "runs") != (line.source in running):
                lines.append(f"  {'activate' if line.text == 'runs' else 'deactivate'} {line.source}")
                running ^= {line.source}
            continue
        if line.to:
            lines.append(f"  {line.source}->>{line.to}: {line.at_s:.2f} {line.text}")
        else:
            lines.append(f"  Note over {line.source}: {line.at_s:.2f} {line.text}")
    lines.extend(f"  deactivate {name}" for name in sorted(running))
    lines.extend(f"  Note over broker: VIOLATION {each.rule}, {each.detail}" for each in outcome.violations)
    return "\n".join(lines)
