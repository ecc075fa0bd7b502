"""The console script."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from shared.client import cli, start


def test_runs_the_command_line_with_the_collector_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was off for the imports only; the exit code is the command's."""
    collects: list[bool] = []

    def run() -> int:
        collects.append(gc.isenabled())
        return 7

    monkeypatch.setattr(cli, "main", run)
    try:
        assert start.main() == 7
    finally:
        gc.unfreeze()
    assert collects == [True]


def test_a_process_of_its_own_answers() -> None:
    """As the shell starts it."""
    code = "import sys; from shared.client.start import main; sys.argv = ['vmport', '--version']; sys.exit(main())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.startswith("vmport ")
