"""The process that solves one plan: a task as JSON on standard input, what was found as JSON on standard output."""

from __future__ import annotations

import os
import sys
import time

from services.broker.placement.task import Task, solve

NICENESS = 10
"""Whatever else the broker's host has to do goes first."""


def main() -> int:
    """Read, solve, write; returns the exit code."""
    os.nice(NICENESS)
    started_s = time.monotonic()
    task = Task.model_validate_json(sys.stdin.buffer.read())
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        # The solver's library greets on standard output.
        os.dup2(2, 1)
        solved = solve(task, elapsed_s=lambda: time.monotonic() - started_s)
        answer.write(solved.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
