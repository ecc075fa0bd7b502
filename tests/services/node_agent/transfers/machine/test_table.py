"""The tables are whole: each phase has a row, is reached, and no end leads anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from services.node_agent.transfers.machine import donor
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.machine.state import DonorPhase, RecipientPhase
from services.node_agent.transfers.machine.table import DONOR, RECIPIENT, On, on

BOTH = pytest.mark.parametrize(
    ("table", "phases", "start"),
    [(DONOR, DonorPhase, DonorPhase.MOVING), (RECIPIENT, RecipientPhase, RecipientPhase.WAITING)],
    ids=["donor", "recipient"],
)


@BOTH
def test_each_phase_has_a_row_and_is_reached(table: Mapping[Any, tuple[On, ...]], phases: Any, start: Any) -> None:
    """None is forgotten, none is dead."""
    assert set(table) == set(phases)
    reached = {target for row in table.values() for line in row for target in line.to} | {start}
    assert reached == set(phases)


@BOTH
def test_an_event_has_one_meaning_in_a_phase(table: Mapping[Any, tuple[On, ...]], phases: Any, start: Any) -> None:
    """A second line would never be read."""
    assert start in phases
    for row in table.values():
        events = [line.event for line in row]
        assert len(events) == len(set(events))


@BOTH
def test_each_phase_but_the_ends_has_a_way_out(table: Mapping[Any, tuple[On, ...]], phases: Any, start: Any) -> None:
    """Nothing waits for ever by construction."""
    assert start in phases
    ends = {phase for phase, row in table.items() if not any(line.to for line in row)}
    assert ends in ({DonorPhase.LEFT, DonorPhase.STAYED}, {RecipientPhase.GONE})


def test_a_line_is_what_was_registered() -> None:
    """Event, handler, and where it can lead."""
    line = on(ev.Frozen, donor.frozen, to=(DonorPhase.UNDECIDED,))
    assert line == On(ev.Frozen, donor.frozen, (DonorPhase.UNDECIDED,))
    assert on(ev.Frozen, donor.frozen) == On(ev.Frozen, donor.frozen)
