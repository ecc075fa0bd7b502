"""The services tier in short: ports end well without faults, a seed replays, and a report says what was seen.

Each test runs the program, since a simulation changes what time is for its whole process.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

RUN = Path(__file__).parent / "run"


def simulate(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Run schedules; returns the report."""
    report = tmp_path / "report.json"
    subprocess.run([RUN, *arguments, "--json", report], check=False, stdout=subprocess.DEVNULL, timeout=300)
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_a_seed_replays_exactly(tmp_path: Path) -> None:
    """Two runs take the same steps in the same order, faults and all."""
    first, second = (simulate(tmp_path, "--tier", "services", "--schedules", "3", "--seed", "1") for _ in range(2))
    assert first["digest"] == second["digest"] != 0
    assert first["cells_hit"] == second["cells_hit"] > 0


def test_the_report_has_its_fields(tmp_path: Path) -> None:
    """Those that others read."""
    report = simulate(tmp_path, "--tier", "services", "--schedules", "1", "--seed", "3")
    assert {"tier", "schedules", "violations", "seconds", "cells_hit", "cells"} <= report.keys()
    assert (report["tier"], report["schedules"]) == ("services", 1)
