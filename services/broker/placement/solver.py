"""The one module that knows HiGHS: linear and mixed-integer problems behind a small typed interface.

A `Program` is columns with prices and bounds, and rows that are added, changed and solved again; HiGHS starts each time
from the last basis. One thread, always the same seed: the same problem has the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import highspy
import numpy as np
from numpy.typing import NDArray

from shared.errors import VmportError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
INFINITY = float(highspy.kHighsInf)


class SolverFailed(VmportError):
    """HiGHS gave no solution, and not because there is none."""

    code = "solver_failed"


class Status(StrEnum):
    """How a search ended."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    """The time was over; the solution is the best that was found."""
    INFEASIBLE = "infeasible"
    NOTHING_FOUND = "nothing_found"
    """The time was over."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What was found. ``bound``: no solution is better. Duals are those of a program without integers."""

    status: Status
    objective: float
    bound: float
    values: Floats
    row_duals: Floats


@dataclass(frozen=True, slots=True)
class Row:
    """``lower`` <= sum of ``factors`` x ``columns`` <= ``upper``."""

    lower: float
    upper: float
    columns: Sequence[int] | Ints
    factors: Sequence[float] | Floats


class Program:
    """A minimisation."""

    def __init__(
        self, prices: Floats, lower: Floats, upper: Floats, *, time_limit_s: float = INFINITY, gap: float = 1e-9
    ) -> None:
        self._highs = highs = highspy.Highs()  # type: ignore[no-untyped-call]  # its stub leaves this one out
        for option, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 1),
            ("time_limit", time_limit_s),
            ("mip_rel_gap", gap),
            ("mip_abs_gap", 1e-6),
            ("mip_feasibility_tolerance", 1e-9),
        ):
            highs.setOptionValue(option, value)
        nothing = np.zeros(0)
        count = len(prices)
        highs.addCols(
            count,
            np.ascontiguousarray(prices, dtype=np.float64),
            np.ascontiguousarray(lower, dtype=np.float64),
            np.ascontiguousarray(upper, dtype=np.float64),
            0,
            np.zeros(0, dtype=np.int32),
            np.zeros(0, dtype=np.int32),
            nothing,
        )
        self._count = count
        self._all = np.arange(count, dtype=np.int32)

    def add_rows(self, rows: Sequence[Row]) -> None:
        """More rows, after those that are there."""
        if not rows:
            return
        starts = np.cumsum([0, *(len(row.columns) for row in rows)])[:-1].astype(np.int32)
        index = np.concatenate([np.asarray(row.columns, dtype=np.int32) for row in rows])
        factors = np.concatenate([np.asarray(row.factors, dtype=np.float64) for row in rows])
        lower = np.array([row.lower for row in rows], dtype=np.float64)
        upper = np.array([row.upper for row in rows], dtype=np.float64)
        self._highs.addRows(len(rows), lower, upper, len(index), starts, index, factors)

    def set_rows(self, first: int, lower: Floats, upper: Floats) -> None:
        """New bounds of rows from ``first`` on."""
        for number, (low, high) in enumerate(zip(lower, upper, strict=True), start=first):
            self._highs.changeRowBounds(number, float(low), float(high))

    def set_prices(self, prices: Floats) -> None:
        """New prices of all columns."""
        self._highs.changeColsCost(self._count, self._all, np.ascontiguousarray(prices, dtype=np.float64))

    def set_whole(self, columns: Ints) -> None:
        """These columns are whole numbers from now on."""
        kinds = np.full(len(columns), int(highspy.HighsVarType.kInteger.value), dtype=np.uint8)
        self._highs.changeColsIntegrality(len(columns), np.asarray(columns, dtype=np.int32), kinds)

    def set_time_limit(self, seconds: float) -> None:
        """For the next `solve`."""
        # HiGHS counts the time of all runs of one object.
        self._highs.setOptionValue("time_limit", self._highs.getRunTime() + max(0.01, seconds))

    def solve(self) -> Solution:
        """Solve from where the last solution was; raises `SolverFailed`."""
        self._highs.run()
        status = self._highs.getModelStatus()
        info = self._highs.getInfo()
        found = self._highs.getSolution()
        values, duals = np.array(found.col_value), np.array(found.row_dual)
        kinds = highspy.HighsModelStatus
        bound = info.mip_dual_bound if info.mip_node_count >= 0 else info.objective_function_value
        if status == kinds.kOptimal:
            return Solution(Status.OPTIMAL, info.objective_function_value, bound, values, duals)
        if status in {kinds.kInfeasible, kinds.kUnboundedOrInfeasible}:
            return Solution(Status.INFEASIBLE, INFINITY, INFINITY, values, duals)
        if status == kinds.kTimeLimit:
            has_any = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
            which = Status.FEASIBLE if has_any and info.mip_node_count >= 0 else Status.NOTHING_FOUND
            lowest = info.mip_dual_bound if info.mip_node_count >= 0 else -INFINITY
            return Solution(which, info.objective_function_value, lowest, values, duals)
        raise SolverFailed(f"HiGHS ended with {self._highs.modelStatusToString(status)}")
