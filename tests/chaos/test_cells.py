"""Cells of the chaos run: which are good, how they are written, and the table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.messages.network import NetworkMode
from tests.chaos.cells import Cell, Phase, from_json, table, to_json
from tests.chaos.faults import FAULTS, matrix
from tests.chaos.verify import states_agree

GOOD = Cell("kill-broker", Phase.MEMORY, "completed", 1, 0, True, (), True, 30.0)


def test_a_cell_with_one_copy_and_nothing_wrong_is_good() -> None:
    """Nothing is said of it."""
    assert GOOD.problems() == []


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "finishing"},
        {"outcome": "failed", "allowed": ("completed",)},
        {"running_copies": 0},
        {"running_copies": 2},
        {"mismatches": 1},
        {"mismatches": None},
        {"disk_identical": False},
        {"disk_identical": None},
        {"leftovers": ("beta: run dir",)},
        {"states_agree": False},
        {"connections_kept": 49},
    ],
)
def test_one_thing_wrong_makes_a_cell_bad(change: dict[str, object]) -> None:
    """Each has its own words."""
    assert len(replace(GOOD, **change).problems()) == 1  # type: ignore[arg-type]  # the parameters' types differ


def test_cells_are_read_as_they_were_written() -> None:
    """The problems in the file are for readers; they are worked out again."""
    cells = [GOOD, replace(GOOD, phase=Phase.DISKS, leftovers=("a", "b"), allowed=("completed",))]
    assert from_json(to_json(cells)) == cells


def test_the_table_has_a_row_per_fault_and_names_what_is_wrong() -> None:
    """Cells that were not run are a dash, and a bad one stands below with its problems."""
    text = table([GOOD, replace(GOOD, fault="rabbitmq", phase=Phase.DISKS, running_copies=2)])
    assert "| kill-broker | - | completed, 30 s |" in text
    assert "| rabbitmq | **BAD** | - |" in text
    assert "- **rabbitmq, disks**: 2 copies run" in text
    assert "2 cells, 1 good" in text


def test_every_fault_can_be_chosen_alone_or_by_the_beginning_of_its_name() -> None:
    """All cells are those of all faults, and no fault leads to a port of which nothing is right."""
    assert sum(len(matrix([name])) for name in FAULTS) == len(matrix())
    assert {fault for fault, _ in matrix(["reboot"], ["arrived"])} == {"reboot-donor", "reboot-recipient"}
    assert matrix(["no-such-fault"]) == []
    assert matrix(["kill-gateway"]) == []
    assert len(matrix(["kill-gateway"], network=NetworkMode.ANCHOR)) == len(Phase)
    assert all(FAULTS[name].allowed(phase) for name, phase in matrix())


def test_parties_agree_only_where_all_know_the_same_end_and_the_guest_is_there() -> None:
    """One party that knows another end, or a tenant who was told another place, is enough."""
    found = {
        "broker": "completed",
        "donor": "quarantined",
        "recipient": "provisioned",
        "tenant": "completed",
        "runs_at": "beta",
    }
    assert states_agree(found, "beta")
    assert not states_agree(found, "alpha")
    assert not states_agree({**found, "donor": "moving"}, "beta")
    assert not states_agree({**found, "tenant": "failed"}, "beta")
    assert not states_agree({**found, "broker": "finishing"}, "beta")
