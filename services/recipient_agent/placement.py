"""Which node takes a VM. Pure. A first honest rule; an optimiser comes later.

Among the nodes that pass the platform check and have room: the one with the most free memory after placement, so that
load spreads; the name decides a tie, so that the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.recipient_agent.capacity import Room
from services.recipient_agent.places import NOTHING_CHOSEN, HostChoice
from services.recipient_agent.quote_lines import NO_LINES, Lines
from shared.messages.base import Refusal
from shared.messages.vm import VmDescription

MAX_REFUSALS = 50
"""A provider with many nodes names the first so many findings; a reader needs no more."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node, what is left on it, and what speaks against it."""

    node: str
    room: Room
    refusals: tuple[Refusal, ...] = ()
    choice: HostChoice = NOTHING_CHOSEN
    lines: Lines = NO_LINES


@dataclass(frozen=True, slots=True)
class Placed:
    """The chosen node."""

    node: str


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """No node can take the VM; every finding of every node."""

    refusals: tuple[Refusal, ...]


def place(vm: VmDescription, candidates: Iterable[Candidate], *, promised: Lines | None = None) -> Placed | NotPlaced:
    """Choose a node. With `promised`, first among those on which the VM becomes what a quote has said."""
    everyone = list(candidates)
    able = [candidate for candidate in everyone if not candidate.refusals]
    if able:
        best = min(
            able,
            key=lambda candidate: (
                promised is not None and candidate.lines != promised,
                vm.memory_bytes - candidate.room.memory_bytes,
                candidate.node,
            ),
        )
        return Placed(best.node)
    if not everyone:
        nobody = Refusal(
            code="no_node",
            rule="A provider needs a node to take a VM.",
            evidence="no node of this provider has been heard yet",
        )
        return NotPlaced((nobody,))
    findings = dict.fromkeys(refusal for candidate in everyone for refusal in candidate.refusals)
    return NotPlaced(tuple(findings)[:MAX_REFUSALS])
