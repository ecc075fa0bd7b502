"""`tests/bench/placement`: runs the experiments, writes their findings, and draws them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench.placement_bench import experiments
from tests.bench.placement_bench.experiments import Finding
from tests.bench.placement_bench.plots import draw

SIZES = ((4, 2, 1, 200), (20, 10, 1, 100), (20, 10, 1, 1000), (20, 10, 1, 10_000), (3, 10, 12, 200))
QUICK_SIZES = ((4, 2, 1, 200),)
SAMPLES, QUICK_SAMPLES = (200, 500, 600, 750), (20, 40)


_HEAD = (
    "# Placement: Chaisiri's experiments",
    "",
    "By `tests/bench/placement`: reservations and places of VMs under uncertain demand and prices, with the prices of",
    "Amazon EC2 in February 2010.",
    "",
)


def run(*, quick: bool) -> list[Finding]:
    """All experiments, one after the other."""
    count = 400 if quick else 20_000
    return [
        experiments.cost_structure(count),
        experiments.break_even(),
        experiments.by_distribution(count),
        experiments.against_others(min(count, 1000)),
        experiments.reserved_by_plan(min(count, 1000)),
        experiments.iterations(min(count, 1000)),
        experiments.twelve_months(60 if quick else 750, QUICK_SAMPLES if quick else SAMPLES),
        experiments.speed(QUICK_SIZES if quick else SIZES),
    ]


def table(findings: Sequence[Finding]) -> str:
    """As Markdown."""
    words = {True: "yes", False: "no", None: "cannot be compared"}
    rows = [f"| {each.name} | {each.paper} | {each.found} | {words[each.same]} |" for each in findings]
    return "\n".join([*_HEAD, "| what | expected | found | same |", "|---|---|---|---|", *rows]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run and write; 1 if something came out otherwise than expected."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/placement",
        description="Chaisiri's experiments with EC2's prices of 2010, and the speed of the search.",
        epilog="Exit code: 0 all as expected; 1 something differs, as the table says; 2 wrong usage.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go; made if missing")
    parser.add_argument("--quick", action="store_true", help="few scenarios, in seconds")
    words = parser.parse_args(argv)
    words.out.mkdir(parents=True, exist_ok=True)
    findings = run(quick=words.quick)
    (words.out / "results.json").write_text(json.dumps([asdict(each) for each in findings], indent=1) + "\n")
    text = table(findings)
    (words.out / "summary.md").write_text(text)
    draw(words.out, findings)
    sys.stdout.write(text)
    return 0 if all(each.same is not False for each in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
