"""Programs per scenario, where capacity couples the classes. What they share with the closed form: test_recourse.py."""

from __future__ import annotations

import numpy as np

from services.broker.placement.model import Instance, Scenarios, VmClass, columns_of
from services.broker.placement.recourse_lp import ByPrograms


def given(limit: float) -> Instance:
    """Two classes at one cheap provider that takes so many VMs, and one that takes any."""
    classes = tuple(VmClass(name, (0, 1), (100, 300), (), (0, 0), 0, (1.0,)) for name in ("a", "b"))
    return Instance(1, classes, ("cheap", "other"), 100, ((limit,), (np.inf,)))


FUTURES = Scenarios(np.array([[[3.0, 4.0]]]), np.ones((1, 1, 2)))


def test_classes_share_a_limit() -> None:
    """Five fit at the cheap provider, two do not."""
    columns = columns_of(given(5.0))
    second = ByPrograms(columns, FUTURES)
    values = np.zeros(len(columns))
    assert second.costs(values).tolist() == [[5 * 100.0 + 2 * 300.0]]
    used = np.sum([use.on_demand for use in second.use(values)], axis=0)
    assert used.tolist() == [5.0, 2.0]
    assert second.shortage(values).tolist() == [0.0, 0.0]


def test_what_fits_nowhere_is_told() -> None:
    """It is priced so that any plan avoids it."""
    both = Instance(1, given(2.0).classes, ("cheap", "other"), 100, ((2.0,), (3.0,)))
    columns = columns_of(both)
    second = ByPrograms(columns, FUTURES)
    values = np.zeros(len(columns))
    assert second.shortage(values).sum() == 2.0
    assert second.costs(values).sum() > 2 * both.shortage
