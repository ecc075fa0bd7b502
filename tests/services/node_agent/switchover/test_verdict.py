"""The donor's decision table, row by row."""

from __future__ import annotations

from uuid import uuid4

import pytest

from services.node_agent.switchover.verdict import Reply, Verdict, donor_verdict
from shared.messages.porting import SwitchoverState

DONOR, RECIPIENT = "alpha", "beta"


def state(
    *, committed: bool, owner: str, ended: bool = False, arrived: bool = False, ready: bool = False
) -> SwitchoverState:
    """The broker's word."""
    return SwitchoverState(
        port_id=uuid4(), committed=committed, owner=owner, epoch=2, ended=ended, arrived=arrived, ready=ready
    )


THERE = state(committed=True, owner=RECIPIENT)
ARRIVED = state(committed=True, owner=RECIPIENT, arrived=True)
OVER_THERE = state(committed=True, owner=RECIPIENT, ended=True)
HERE = state(committed=False, owner=DONOR)
READY = state(committed=False, owner=DONOR, ready=True)
OVER_HERE = state(committed=False, owner=DONOR, ended=True)
COMMITTED_TO_US = state(committed=True, owner=DONOR, arrived=True)
OTHERS = state(committed=False, owner=RECIPIENT, arrived=True)
"""Contradictions, which a broker never says: neither is a reason to kill a copy."""
BACK = state(committed=True, owner=DONOR)
NONE, RUNS, FAILED = Reply.NONE, Reply.RUNS, Reply.FAILED


@pytest.mark.parametrize(
    ("known", "reply", "aborted", "expected"),
    [
        (None, NONE, False, Verdict.WAIT),
        (None, RUNS, False, Verdict.WAIT),
        (None, FAILED, False, Verdict.WAIT),
        (None, NONE, True, Verdict.RUNS_HERE),
        (THERE, NONE, True, Verdict.RUNS_HERE),
        (THERE, NONE, False, Verdict.WAIT),
        (THERE, FAILED, False, Verdict.WAIT),
        (THERE, RUNS, False, Verdict.RUNS_THERE),
        (ARRIVED, NONE, False, Verdict.RUNS_THERE),
        (OVER_THERE, FAILED, False, Verdict.RUNS_THERE),
        (HERE, NONE, False, Verdict.WAIT),
        (HERE, RUNS, False, Verdict.WAIT),
        (HERE, FAILED, False, Verdict.RUNS_HERE),
        (READY, FAILED, False, Verdict.WAIT),
        (READY, RUNS, False, Verdict.WAIT),
        (OVER_HERE, NONE, False, Verdict.RUNS_HERE),
        (COMMITTED_TO_US, NONE, False, Verdict.WAIT),
        (OTHERS, NONE, False, Verdict.WAIT),
        (OTHERS, RUNS, False, Verdict.WAIT),
        (BACK, RUNS, False, Verdict.WAIT),
        (BACK, FAILED, False, Verdict.RUNS_HERE),
    ],
)
def test_verdicts(
    known: SwitchoverState | None,
    reply: Reply,
    aborted: bool,  # noqa: FBT001  # a table
    expected: Verdict,
) -> None:
    """Each row of the table in the module's docstring."""
    assert expected == donor_verdict(known, donor=DONOR, reply=reply, aborted=aborted)
