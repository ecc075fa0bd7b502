"""The worker program: JSON in, and nothing but JSON out."""

from __future__ import annotations

import subprocess
import sys

from services.broker.placement.task import Solved, Task
from tests.support.placement_samples import demand, price_list


def test_only_the_answer_is_on_standard_output() -> None:
    """The solver's library greets; that goes to standard error."""
    task = Task(demand=demand(scenarios=5, horizon_months=1), catalogues={"alpha": price_list()}, at={})
    done = subprocess.run(
        [sys.executable, "-m", "services.broker.plans.worker"],
        input=task.model_dump_json().encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    solved = Solved.model_validate_json(done.stdout)
    assert solved.failure == ""
    assert solved.result is not None
