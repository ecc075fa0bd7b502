"""Percentiles, and who used the processors meanwhile."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies; not a number when there are none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of processes, with the ended children that they waited for; a process that is gone is 0."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2].split()
            ticks += sum(int(each) for each in fields[11:15])
    return ticks / TICKS_PER_S


def busy_s() -> float:
    """Busy time of all processors since boot."""
    fields = [int(each) for each in Path("/proc/stat").read_text("utf-8").splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / TICKS_PER_S


class CpuMeter:
    """Processors in use since the meter was made: by each group of processes, and by everybody else."""

    def __init__(self, processes: Callable[[], Mapping[str, Sequence[int]]]) -> None:
        self._processes = processes
        self._began_s = time.perf_counter()
        self._busy_s = busy_s()
        self._before_s = {name: cpu_s(pids) for name, pids in processes().items()}

    def read(self) -> dict[str, float]:
        """Cores in use on average, by name."""
        wall_s = time.perf_counter() - self._began_s
        cores = {name: (cpu_s(pids) - self._before_s[name]) / wall_s for name, pids in self._processes().items()}
        others = (busy_s() - self._busy_s) / wall_s - sum(cores.values())
        return {name: round(value, 2) for name, value in (cores | {"others": others}).items()}
