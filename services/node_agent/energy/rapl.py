"""The CPU's own energy counters, as Linux shows them under /sys/class/powercap. Read only; the root is an input.

Packages are counted, and the memory of each where it has a counter of its own; cores and graphics are inside the
package's. Above its range a counter starts again from 0: it must be read more often than that, which is minutes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_ZONE = re.compile(r"^intel-rapl:\d+(?::\d+)?$")
MICRO = 1e-6


class NoCounters(Exception):
    """This host shows no energy counters that can be read."""


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter, in micro-joules; it goes up to ``range_uj`` and starts again."""

    name: str
    file: Path
    range_uj: int

    def read(self) -> int:
        """Raises OSError, or ValueError for what is no number."""
        return int(self.file.read_text("ascii"))


def counters(root: Path = POWERCAP) -> tuple[Counter, ...]:
    """All that are to be added up; raises `NoCounters`."""
    found = []
    try:
        for zone in sorted(root.iterdir()):
            if _ZONE.match(zone.name) is None:
                continue
            name = (zone / "name").read_text("ascii").strip()
            if name.startswith("package") or name == "dram":
                counter = Counter(name, zone / "energy_uj", int((zone / "max_energy_range_uj").read_text("ascii")))
                counter.read()
                found.append(counter)
    except FileNotFoundError as error:
        raise NoCounters(f"{root} is not there: this kernel or CPU has no energy counters") from error
    except PermissionError as error:
        raise NoCounters(f"{error.filename} cannot be read: only root may") from error
    except (OSError, ValueError) as error:
        raise NoCounters(f"the counters under {root} cannot be read: {error}") from error
    if not any(counter.name.startswith("package") for counter in found):
        raise NoCounters(f"{root} has no counter of a CPU package")
    return tuple(found)


class Meter:
    """Joules since it was made, over all counters."""

    def __init__(self, all_counters: tuple[Counter, ...]) -> None:
        self._last = {counter: counter.read() for counter in all_counters}
        self._total_uj = 0

    def joules(self) -> float:
        """Raises OSError or ValueError where a counter can no longer be read."""
        for counter, before in self._last.items():
            now = counter.read()
            passed = now - before
            self._total_uj += passed if passed >= 0 else passed + counter.range_uj
            self._last[counter] = now
        return self._total_uj * MICRO
