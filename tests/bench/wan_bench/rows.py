"""Rows of results: their fields, what makes one count, medians and ratios. Pure but for reading and writing the file.

`results.json` is a list of rows. Times in seconds or milliseconds as the names say, bytes of both directions on the
donor's uplink with all headers; null where a figure does not exist (the downtime of a migration that did not end).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


def label_without(label: str, without: Iterable[str]) -> str:
    """A variant's label with what was left out."""
    return label + "".join(f" -{name}" for name in without)


@dataclass(frozen=True)
class Row:
    """One measured run."""

    system: str
    variant: str
    workload: str
    run: int
    outcome: str
    """`completed`; `timeout`: did not end in the given time and was aborted; `failed`."""
    wire_bytes: int
    total_s: float
    """From the command to its end, by the caller's clock; for a timeout the time until it was aborted."""
    downtime_ms: float | None
    """As the system itself tells: libvirt's total downtime, vmport's measured downtime."""
    outage_ms: float | None
    """The longest silence that a UDP client of the guest saw, less its interval."""
    mismatches: int | None
    disk_identical: bool | None
    disk_check: str = ""
    """How disks were compared: `blocks`, `files`, or why not."""
    without: tuple[str, ...] = ()
    wire_bytes_sent: int = 0
    wire_bytes_received: int = 0
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    techniques: Mapping[str, float] = field(default_factory=dict)
    """Byte counters of the donor's node agent that grew in the run, by name and labels (vmport only)."""
    peak_memory_mib: Mapping[str, float] = field(default_factory=dict)
    """The most memory that each node agent had resident in the run: `donor`, `recipient` (vmport only)."""
    detail: str = ""
    started_at: str = ""

    @property
    def label(self) -> str:
        """`stock/plain`, with what was left out."""
        return label_without(f"{self.system}/{self.variant}", self.without)

    @property
    def completed(self) -> bool:
        """Whether the guest arrived."""
        return self.outcome == "completed"

    def faults(self) -> list[str]:
        """Why the row's figures may not be used; empty if they may."""
        found = []
        if self.outcome == "failed":
            found.append(f"failed: {self.detail}")
        if self.mismatches != 0:
            found.append("the guest gave no report" if self.mismatches is None else f"{self.mismatches} mismatches")
        if self.completed and self.disk_identical is not True:
            found.append(f"disk not shown to be identical ({self.disk_check or 'not compared'})")
        return found


@dataclass(frozen=True)
class Summary:
    """Medians of one variant's good runs of a workload. Times and outage are None if one run did not end."""

    label: str
    workload: str
    runs: int
    ended: int
    wire_bytes: float
    total_s: float | None
    downtime_ms: float | None
    outage_ms: float | None
    spread: Mapping[str, tuple[float, float]]
    """Least and most of each figure."""


FIGURES = ("wire_bytes", "total_s", "downtime_ms", "outage_ms")


def summaries(rows: Iterable[Row]) -> list[Summary]:
    """One summary per workload and variant, in the order of first appearance; rows with faults do not count."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not row.faults():
            groups.setdefault((row.workload, row.label), []).append(row)
    return [_summary(workload, label, group) for (workload, label), group in groups.items()]


def _summary(workload: str, label: str, group: list[Row]) -> Summary:
    values = {name: [value for row in group if (value := getattr(row, name)) is not None] for name in FIGURES}
    ended = sum(row.completed for row in group)

    def middle(name: str) -> float | None:
        return median(values[name]) if values[name] and ended == len(group) else None

    return Summary(
        label=label,
        workload=workload,
        runs=len(group),
        ended=ended,
        wire_bytes=median(values["wire_bytes"]),
        total_s=middle("total_s"),
        downtime_ms=middle("downtime_ms"),
        outage_ms=middle("outage_ms"),
        spread={name: (min(found), max(found)) for name, found in values.items() if found},
    )


def ratio(of: Summary, to: Summary | None, figure: str) -> float | None:
    """How many times `to` a median is; None where either was not measured, or did not end in every run.

    What a move carried until it was aborted says how long one waited, not what it costs.
    """
    if to is None or of.ended < of.runs or to.ended < to.runs:
        return None
    ours, theirs = getattr(of, figure), getattr(to, figure)
    return None if ours is None or not theirs else ours / theirs


def best_stock(found: Iterable[Summary], workload: str, figure: str) -> Summary | None:
    """The stock variant with the least of a figure among those that ended in every run; None if none did."""
    these = [
        summary
        for summary in found
        if summary.workload == workload
        and summary.label.startswith("stock/")
        and summary.ended == summary.runs
        and getattr(summary, figure) is not None
    ]
    return min(these, key=lambda summary: float(getattr(summary, figure)), default=None)


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier call; none if there is no file. Raises `ValueError` for a file that is not one of ours."""
    if not path.exists():
        return []
    try:
        raw: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
        return [Row(**{**item, "without": tuple(item.get("without", ()))}) for item in raw]
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} does not hold rows of this program: {error}") from error


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file at once."""
    write_json(path, [asdict(row) for row in rows])


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once, so that a crash leaves the old or the new one."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)
