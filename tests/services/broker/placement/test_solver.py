"""The small interface to HiGHS."""

from __future__ import annotations

import numpy as np
import pytest

from services.broker.placement.solver import INFINITY, Program, Row, Status


def program(**options: float) -> Program:
    """x + 2y is least, x + y >= 3.5, x <= 2."""
    made = Program(np.array([1.0, 2.0]), np.zeros(2), np.full(2, 10.0), **options)
    made.add_rows([Row(3.5, INFINITY, [0, 1], [1.0, 1.0]), Row(-INFINITY, 2.0, [0], [1.0])])
    return made


def test_optimum_and_duals() -> None:
    """A unit more of demand costs 2, a unit more of x saves 1."""
    found = program().solve()
    assert (found.status, found.objective, found.bound) == (Status.OPTIMAL, 5.0, 5.0)
    assert (found.values.tolist(), found.row_duals.tolist()) == ([2.0, 1.5], [2.0, -1.0])


def test_changed_and_solved_again() -> None:
    """Rows, prices and whole numbers."""
    changed = program()
    changed.solve()
    changed.set_rows(0, np.array([4.0]), np.array([INFINITY]))
    assert changed.solve().objective == 6.0
    changed.set_prices(np.array([3.0, 2.0]))
    assert changed.solve().values.tolist() == [0.0, 4.0]
    changed.set_rows(0, np.array([4.5]), np.array([INFINITY]))
    changed.set_whole(np.array([0, 1]))
    assert changed.solve().objective == 10.0


def test_infeasible() -> None:
    """It is said, not raised."""
    made = program()
    made.add_rows([Row(30.0, INFINITY, [0, 1], [1.0, 1.0])])
    assert made.solve().status is Status.INFEASIBLE
    made.add_rows([])


def test_time_limit() -> None:
    """A hard program ends in time, with a bound."""
    random = np.random.default_rng(1)
    count = 300
    made = Program(-random.uniform(1, 100, count), np.zeros(count), np.ones(count))
    made.add_rows(
        [Row(-INFINITY, 500.0, np.arange(count), random.integers(1, 100, count).astype(np.float64)) for _ in range(60)]
    )
    made.set_whole(np.arange(count))
    made.set_time_limit(0.3)
    found = made.solve()
    assert found.status in {Status.FEASIBLE, Status.NOTHING_FOUND}
    assert found.bound <= found.objective + 1e-6 or found.bound == -INFINITY
    assert found.objective == pytest.approx(found.objective)
