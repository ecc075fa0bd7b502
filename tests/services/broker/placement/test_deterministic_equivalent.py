"""The whole program, by hand. That the L-shaped method finds the same: test_l_shaped.py."""

from __future__ import annotations

import numpy as np
import pytest

from services.broker.placement.deterministic_equivalent import solve_whole
from services.broker.placement.model import Instance, Risk, Scenarios, Slot, VmClass, columns_of

ONE = Instance(1, (VmClass("web", (0,), (100,), (Slot(0, 1, 40, 20),), (0,)),), ("alpha",))
FUTURES = Scenarios(np.array([2.0, 2.0, 6.0]).reshape(3, 1, 1), np.ones((3, 1, 1)))


def test_the_newsvendor() -> None:
    """A reserved VM costs 40 and saves 80 whenever it runs: two always run, the others one time in three."""
    found = solve_whole(columns_of(ONE), FUTURES)
    assert found.values[0] == 2
    assert found.objective == pytest.approx(2 * 40 + 2 * 20 + 4 * 100 / 3)


def test_a_weight_on_the_worst_reserves_more() -> None:
    """Only the dearest third counts: all six are reserved."""
    found = solve_whole(columns_of(ONE), FUTURES, Risk(1.0, 2 / 3))
    assert found.values[0] == 6
    assert found.objective == pytest.approx(6 * 60)


def test_parts_of_vms() -> None:
    """Without whole numbers the bound is not higher."""
    part = solve_whole(columns_of(ONE), FUTURES, whole=False)
    assert part.objective <= solve_whole(columns_of(ONE), FUTURES).objective + 1e-9
