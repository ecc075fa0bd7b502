"""The CPU's counters, as files of a folder that looks like /sys/class/powercap."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.energy.rapl import Meter, NoCounters, counters


def zone(root: Path, name: str, label: str, energy_uj: int, range_uj: int = 10**9) -> Path:
    """One counter; returns its file."""
    folder = root / name
    folder.mkdir()
    for file, value in (("name", label), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj)):
        (folder / file).write_text(f"{value}\n")
    return folder / "energy_uj"


def test_packages_and_memory_are_added_up(tmp_path: Path) -> None:
    """What is inside a package, and what is no counter, is not counted again."""
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 100)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 100)
    whole = zone(tmp_path, "intel-rapl:1", "psys", 100)
    (tmp_path / "intel-rapl").mkdir()
    meter = Meter(counters(tmp_path))
    for file, now in ((package, 7_000_000), (memory, 500_100), (core, 9_000_000), (whole, 9_000_000)):
        file.write_text(str(now))
    assert meter.joules() == pytest.approx(2.5)


def test_a_counter_that_starts_again(tmp_path: Path) -> None:
    """Above its range it begins at 0; nothing is lost."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, range_uj=10_000_000)
    meter = Meter(counters(tmp_path))
    file.write_text("1000000")
    assert meter.joules() == pytest.approx(2.0)
    file.write_text("1500000")
    assert meter.joules() == pytest.approx(2.5)


def test_a_host_without_counters(tmp_path: Path) -> None:
    """Said in words: no folder, no package in it, or a file that holds no number."""
    with pytest.raises(NoCounters, match="is not there"):
        counters(tmp_path / "powercap")
    with pytest.raises(NoCounters, match="no counter of a CPU package"):
        counters(tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 1).write_text("?")
    with pytest.raises(NoCounters, match="cannot be read"):
        counters(tmp_path)
