"""Columns of the first stage, what they mean, and the weights of scenarios."""

from __future__ import annotations

import numpy as np
import pytest

from services.broker.placement.model import Instance, Risk, Scenarios, Slot, VmClass, columns_of, most_of, moves_of

WEB = VmClass("web", (0, 1), (1000, 900), (Slot(0, 2, 300, 200), Slot(1, 3, 500, 250)), (3, 1), 50)
GIVEN = Instance(4, (WEB,), ("alpha", "beta"))
COLUMNS = columns_of(GIVEN)


def values(**given: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Columns by what they are: ``x0_1`` is slot 0 from month 1 on, ``out0`` and ``in1`` are ports."""
    found = np.zeros(len(COLUMNS))
    for name, value in given.items():
        if name.startswith("x"):
            slot, start = map(int, name[1:].split("_"))
            at = (COLUMNS.slot == slot) & (COLUMNS.start == start)
        else:
            place = int(name[-1])
            at = (COLUMNS.source if name.startswith("out") else COLUMNS.target) == place
        found[at] = value
    return found


def test_contracts_end_within_the_horizon() -> None:
    """Two months begin in months 0 to 2, three in 0 and 1; each port leaves and comes."""
    assert [(int(slot), int(start)) for slot, start in zip(COLUMNS.slot, COLUMNS.start, strict=True)] == [
        *((0, start) for start in range(3)),
        *((1, start) for start in range(2)),
        *((-1, -1),) * 4,
    ]
    assert COLUMNS.price.tolist() == [300.0] * 3 + [500.0] * 2 + [50.0] * 2 + [0.0] * 2


def test_what_is_reserved_in_each_month() -> None:
    """A contract serves its own months, together with others of its slot."""
    held = COLUMNS.reserved(0, values(x0_0=2, x0_1=1, x1_1=4))
    assert held.tolist() == [[2.0, 3.0, 1.0, 0.0], [0.0, 4.0, 4.0, 4.0]]


def test_where_vms_are_after_the_ports() -> None:
    """Two leave alpha for beta."""
    moved = values(out0=2, in1=2)
    assert COLUMNS.placed(0, moved).tolist() == [1.0, 3.0]
    assert moves_of(COLUMNS, 0, moved) == [(0, 1), (0, 1)]
    assert moves_of(COLUMNS, 0, values(out0=2, in0=2)) == []


def test_rounding_keeps_the_number_of_vms() -> None:
    """What leaves comes somewhere."""
    whole = COLUMNS.rounded(values(out0=1.5, in1=1.5, x0_0=1.4))
    assert COLUMNS.placed(0, whole).sum() == 4
    assert COLUMNS.reserved(0, whole)[0, 0] == 1
    assert np.array_equal(whole, np.round(whole))


def test_slopes_reach_the_columns() -> None:
    """A reserved VM is worth something in the months that its contract serves."""
    at, slopes = COLUMNS.slopes(0, 2, np.array([-10.0, -7.0]), np.array([5.0, 3.0]))
    assert dict(zip(at.tolist(), slopes.tolist(), strict=True)) == {
        0: 0.0, 1: -10.0, 2: -10.0, 3: -7.0, 4: -7.0, 5: -5.0, 6: -3.0, 7: 5.0, 8: 3.0,
    }  # fmt: skip


def test_no_column_is_of_use_above_its_bound() -> None:
    """The highest demand, and the VMs that are there."""
    futures = Scenarios(np.full((1, 4, 1), 6.0), np.ones((1, 4, 2)))
    assert most_of(COLUMNS, futures).tolist() == [6.0] * 5 + [3.0, 1.0, 4.0, 4.0]


def test_risk() -> None:
    """The mean, the mean of the worst, and what lies between; a scenario may be partly among the worst."""
    costs = np.array([1.0, 2.0, 3.0, 10.0])
    assert Risk().of(costs) == 4.0
    assert Risk(1.0, 0.75).of(costs) == 10.0
    assert Risk(0.5, 0.75).of(costs) == 7.0
    assert Risk(1.0, 0.5).of(costs) == pytest.approx(6.5)
    assert Risk(0.3, 0.9).weights(costs).sum() == pytest.approx(1.0)
    assert Risk(level=0.75).worst(costs) == 10.0
