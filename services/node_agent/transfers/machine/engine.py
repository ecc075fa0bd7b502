"""Runs the tables: one step from a state and an event to a decision. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from services.node_agent.transfers.machine.events import Event
from services.node_agent.transfers.machine.state import Decision, Donor, MachineBug, Recipient
from services.node_agent.transfers.machine.table import DONOR, DONOR_ANYWHERE, RECIPIENT, RECIPIENT_ANYWHERE, On

S = TypeVar("S", Donor, Recipient)


def step(state: S, event: Event) -> Decision[S]:
    """One step of a transfer. Raises only `MachineBug`, when a handler does what the table does not allow."""
    if isinstance(state, Donor):
        return _step(state, event, DONOR, DONOR_ANYWHERE)
    return _step(state, event, RECIPIENT, RECIPIENT_ANYWHERE)


def _step(state: S, event: Event, table: Mapping[Any, tuple[On, ...]], anywhere: tuple[On, ...]) -> Decision[S]:
    line = next((line for line in (*table[state.phase], *anywhere) if line.event is type(event)), None)
    if line is None:
        return Decision(state)
    decision: Decision[S] = line.do(state, event)
    reached = decision.state.phase
    if reached is not state.phase and reached not in line.to:
        raise MachineBug(f"{state.phase} does not lead to {reached} by {type(event).__name__}")
    return decision
