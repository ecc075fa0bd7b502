"""Draws the results: cost structure, break-even, the comparison, and the bounds of the samples. SVG and PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # no display, and before pyplot is imported

from matplotlib import pyplot as plt  # the backend is chosen first

from tests.bench.placement_bench.experiments import Finding  # as above


def draw(folder: Path, findings: Sequence[Finding]) -> list[Path]:
    """One figure with all plots; returns its files."""
    figure, ((left, right), (low, corner)) = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    numbers = {key: value for finding in findings for key, value in finding.numbers.items()}
    _lines(left, numbers["curves"], "total cost of a year, by VMs reserved", "reserved VMs")
    _lines(right, numbers["lines"], "cost of a year, by demand", "VMs needed")
    totals: Mapping[str, float] = numbers["totals"]
    low.bar(list(totals), list(totals.values()), color=["#1f77b4", *["#8a8f98"] * (len(totals) - 1)])
    low.set_title("total cost in the same scenarios", fontsize=9)
    low.set_ylabel("$", fontsize=8)
    bounds: Mapping[str, Mapping[str, float]] = numbers["bounds"]
    for name in ("low", "high"):
        corner.plot(list(bounds), [each[name] for each in bounds.values()], marker="o", label=f"{name} bound, 95 %")
    corner.set_title("bounds by samples of this size, twelve months", fontsize=9)
    corner.legend(fontsize=7)
    files = [folder / "placement.svg", folder / "placement.png"]
    for file in files:
        figure.savefig(file, dpi=120)
    plt.close(figure)
    return files


def _lines(axes: Any, curves: Mapping[str, Sequence[float]], title: str, label: str) -> None:
    for name, costs in curves.items():
        axes.plot(range(len(costs)), costs, label=name)
        least = min(range(len(costs)), key=costs.__getitem__)
        if least:
            axes.plot([least], [costs[least]], marker="o", color="black")
            axes.annotate(str(least), (least, costs[least]), fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("$", fontsize=8)
    axes.legend(fontsize=7)
