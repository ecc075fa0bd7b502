"""A short cut of the chaos run: four of its cells, at the instants that are the hardest. `tests/chaos/run` has all."""

from __future__ import annotations

import os

import pytest

from deploy.labkit.lab import Lab
from tests.chaos.cells import Phase, table
from tests.chaos.main import LAB_NAME, run

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

SHORT_CUT = [
    ("kill-broker", Phase.FINISH_ASKED),
    ("kill-donor-node", Phase.COMMITTED),
    ("kill-recipient-node", Phase.ARRIVED),
    ("libvirtd-donor", Phase.FINISH_ASKED),
]


def test_one_copy_runs_whatever_dies_at_the_switchover() -> None:
    """One copy, no mismatch, identical disks, states that agree, and nothing is left."""
    cells = run(Lab(os.environ.get("VMPORT_CHAOS_LAB", LAB_NAME)), SHORT_CUT, result=None, settle_s=120)
    bad = [(cell.fault, cell.phase, cell.problems(), cell.detail) for cell in cells if cell.problems()]
    assert not bad, table(cells)
