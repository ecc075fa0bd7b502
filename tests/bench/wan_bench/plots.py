"""Draws the results: bars of medians with their spread, and bytes over time by kind. SVG and PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # no display, and before pyplot is imported

from matplotlib import pyplot as plt  # the backend is chosen first

from tests.bench.wan_bench.rows import Row, Summary, summaries  # as above

_BARS = (("wire_bytes", "wire bytes, MB", 1e-6), ("total_s", "total time, s", 1.0), ("outage_ms", "outage, ms", 1.0))
_STOCK, _VMPORT = "#8a8f98", "#1f77b4"
_KIND_COLOURS = {"memory": "#1f77b4", "disk": "#ff7f0e", "control": "#2ca02c", "other": "#8a8f98"}


def draw_all(folder: Path, rows: Sequence[Row], timelines: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Path]:
    """Every plot that the rows give; returns the files."""
    found = summaries(rows)
    files = _bars(folder, found) if found else []
    for workload in dict.fromkeys(row.workload for row in rows):
        these = {name: samples for name, samples in timelines.items() if name.startswith(f"{workload} ") and samples}
        if these:
            files += _over_time(folder, workload, these)
    return files


def _bars(folder: Path, found: Sequence[Summary]) -> list[Path]:
    workloads = list(dict.fromkeys(summary.workload for summary in found))
    size = (5 * len(_BARS), 1.2 + 0.28 * len(found) + 0.5 * len(workloads))
    figure, grid = plt.subplots(len(workloads), len(_BARS), figsize=size, squeeze=False, layout="constrained")
    for line, workload in zip(grid, workloads, strict=True):
        these = [summary for summary in found if summary.workload == workload][::-1]
        for axes, (name, title, scale) in zip(line, _BARS, strict=True):
            _bar(axes, these, name, scale)
            axes.set_title(f"{workload}: {title}", fontsize=9)
            if axes is not line[0]:
                axes.set_yticklabels([])
    return _save(figure, folder / "bars")


def _bar(axes: Any, these: Sequence[Summary], name: str, scale: float) -> None:
    for place, summary in enumerate(these):
        value = getattr(summary, name)
        colour = _VMPORT if summary.label.startswith("vmport/") else _STOCK
        if value is None:
            axes.text(0, place, " did not end", va="center", fontsize=7)
            continue
        least, most = summary.spread[name]
        spread = [[(value - least) * scale], [(most - value) * scale]]
        axes.barh(place, value * scale, color=colour, xerr=spread, error_kw={"linewidth": 1, "capsize": 2})
        axes.text(value * scale, place, f" {value * scale:.0f}", va="bottom", fontsize=6)
    axes.set_yticks(range(len(these)), [summary.label for summary in these], fontsize=7)
    axes.set_xlim(left=0)
    axes.tick_params(axis="x", labelsize=7)


def _over_time(folder: Path, workload: str, timelines: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Path]:
    """Cumulative wire bytes, split by the shares that each kind has of what the system itself counted."""
    size = (7, 1.7 * len(timelines) + 0.6)
    figure, grid = plt.subplots(len(timelines), 1, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for (axes,), (name, samples) in zip(grid, timelines.items(), strict=True):
        at = [0.0, *(sample["at_s"] for sample in samples)]
        kinds = list(dict.fromkeys(kind for sample in samples for kind in sample["kinds"]))
        columns: dict[str, list[float]] = {kind: [0.0] for kind in (*kinds, "other")}
        for sample in samples:
            left = float(sample["wire_bytes"])
            for kind in kinds:
                # A system may count before the link does; what is drawn never exceeds what crossed the link.
                share = min(left, float(sample["kinds"].get(kind, columns[kind][-1] * 1e6)))
                columns[kind].append(share / 1e6)
                left -= share
            columns["other"].append(left / 1e6)
        colours = [_KIND_COLOURS.get(kind, "#9467bd") for kind in columns]
        axes.stackplot(at, *columns.values(), labels=list(columns), colors=colours)
        axes.set_title(name, fontsize=8)
        axes.set_ylabel("MB", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6, loc="upper left")
    grid[-1][0].set_xlabel("s", fontsize=7)
    return _save(figure, folder / f"bytes-{workload}")


def _save(figure: Any, stem: Path) -> list[Path]:
    files = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    for file in files:
        figure.savefig(file, dpi=120)
    plt.close(figure)
    return files
