"""VSS and EVPI, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from services.broker.placement.l_shaped import search
from services.broker.placement.model import Instance, Scenarios, Slot, VmClass, columns_of
from services.broker.placement.values import perfect_information, vss

ONE = Instance(1, (VmClass("web", (0,), (100,), (Slot(0, 1, 40, 20),), (0,)),), ("alpha",))
FUTURES = Scenarios(np.array([2.0, 2.0, 6.0]).reshape(3, 1, 1), np.ones((3, 1, 1)))


def test_evpi() -> None:
    """Who knows the future reserves exactly what runs, at 60 for each VM."""
    columns = columns_of(ONE)
    found = search(columns, FUTURES)
    known = perfect_information(columns, FUTURES, found)
    assert known.scenarios == 3
    assert known.value == pytest.approx(found.objective - 60 * FUTURES.demand.mean())


def test_few_scenarios_where_the_time_is_over() -> None:
    """At least some are asked."""
    columns = columns_of(ONE)
    futures = Scenarios(np.tile(FUTURES.demand, (10, 1, 1)), np.ones((30, 1, 1)))
    found = search(columns, futures)
    known = perfect_information(columns, futures, found, elapsed_s=lambda: 9.0, time_limit_s=1.0)
    assert known.scenarios == 3


def test_vss() -> None:
    """Never less than nothing, whatever was rounded."""
    assert vss(120.0, 100.0) == 20.0
    assert vss(100.0 - 1e-9, 100.0) == 0.0
