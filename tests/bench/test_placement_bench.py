"""What `tests/bench/placement` finds with few scenarios: the orderings and counts as far as they can be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.placement_bench import experiments
from tests.bench.placement_bench.__main__ import main


def test_break_even_and_least_cost() -> None:
    """With the prices of EC2 in 2010."""
    assert experiments.break_even().same
    found = experiments.cost_structure(4000)
    assert found.same
    assert "26 with the normal one" in found.found


def test_order_of_costs() -> None:
    """OCRP < EVU < MaxRes < NoRes."""
    found = experiments.against_others(400)
    assert found.same
    assert found.numbers["VSS"] > 0
    assert found.numbers["EVPI"] > 0


def test_twelve_months() -> None:
    """40 of 50 are reserved, by contracts of six months in months 1 and 7."""
    assert experiments.twelve_months(400, (20,)).same


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results, a table and plots."""
    assert main(["--out", str(tmp_path), "--quick"]) in {0, 1}
    assert {file.name for file in tmp_path.iterdir()} == {
        "results.json",
        "summary.md",
        "placement.svg",
        "placement.png",
    }
    results = json.loads((tmp_path / "results.json").read_text())
    assert [each["name"] for each in results][1].startswith("with 30 reserved")
    assert capsys.readouterr().out == (tmp_path / "summary.md").read_text()
