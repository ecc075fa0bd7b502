"""The donor's decision table, row by row."""

from __future__ import annotations

from uuid import uuid4

import pytest

from services.node_agent.switchover.verdict import Verdict, donor_verdict
from shared.messages.porting import SwitchoverState

DONOR, RECIPIENT = "alpha", "beta"


def state(*, committed: bool, owner: str, ended: bool = False, arrived: bool = False) -> SwitchoverState:
    """The broker's word."""
    return SwitchoverState(port_id=uuid4(), committed=committed, owner=owner, epoch=2, ended=ended, arrived=arrived)


THERE = state(committed=True, owner=RECIPIENT)
ARRIVED = state(committed=True, owner=RECIPIENT, arrived=True)
OVER_THERE = state(committed=True, owner=RECIPIENT, ended=True)
HERE = state(committed=False, owner=DONOR)
OVER_HERE = state(committed=False, owner=DONOR, ended=True)
COMMITTED_TO_US = state(committed=True, owner=DONOR, arrived=True)
OTHERS = state(committed=False, owner=RECIPIENT, arrived=True)
"""Contradictions, which a broker never says: neither is a reason to kill a copy."""


@pytest.mark.parametrize(
    ("known", "recipient_failed", "aborted", "expected"),
    [
        (None, False, False, Verdict.WAIT),
        (None, True, False, Verdict.WAIT),
        (None, False, True, Verdict.RUNS_HERE),
        (THERE, False, False, Verdict.WAIT),
        (THERE, True, False, Verdict.WAIT),
        (ARRIVED, False, False, Verdict.RUNS_THERE),
        (OVER_THERE, True, False, Verdict.RUNS_THERE),
        (HERE, False, False, Verdict.WAIT),
        (HERE, True, False, Verdict.RUNS_HERE),
        (OVER_HERE, False, False, Verdict.RUNS_HERE),
        (COMMITTED_TO_US, False, False, Verdict.WAIT),
        (OTHERS, False, False, Verdict.WAIT),
    ],
)
def test_verdicts(
    known: SwitchoverState | None,
    recipient_failed: bool,  # noqa: FBT001  # a table
    aborted: bool,  # noqa: FBT001  # a table
    expected: Verdict,
) -> None:
    """Each row of the table in the module's docstring."""
    assert expected == donor_verdict(known, donor=DONOR, recipient_failed=recipient_failed, aborted=aborted)
