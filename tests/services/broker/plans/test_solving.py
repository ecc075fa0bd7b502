"""Plans are solved by a process of its own, whose failures are told as such."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from services.broker.plans.solving import ProcessSolver
from tests.support.placement_samples import demand, price_list

LISTS = {"alpha": price_list()}


async def test_a_plan_is_found() -> None:
    """By the worker, in its own process."""
    solved = await ProcessSolver().solve(demand(scenarios=10, horizon_months=12), LISTS, {})
    assert (solved.failure, solved.moves) == ("", ())
    assert solved.result is not None
    assert solved.result.reservations[0].provider == "alpha"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit(3)", "the solver ended with code 3: it said nothing"),
        ("raise RuntimeError('no memory')", "the solver ended with code 1: RuntimeError: no memory"),
        ("import time; time.sleep(60)", "no plan was found within 0.1 s"),
    ],
)
async def test_a_worker_that_fails(program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and the plan says why there is none."""
    (tmp_path / "bad_worker.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    solver = ProcessSolver(time_limit_s=0.1, grace_s=1.0 if "sleep" in program else 20.0, worker="bad_worker")
    solved = await solver.solve(demand(), LISTS, {})
    assert solved.result is None
    assert solved.failure.startswith(said)
