"""``tests/simulation/run``: many schedules over several processes; a failing one is made smaller and drawn."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import structlog

from tests.simulation.faults import Plan, aimed, cells, draw_core, simpler
from tests.simulation.planted import BUGS
from tests.simulation.report import Outcome, chart

Simulate = Callable[[Plan, Path], Outcome]
_KEPT_LINES = 400
_SHRINKS = 60
"""Most schedules that are spent on making one failure smaller."""


def _simulator(tier: str, planted: str | None, *, is_long: bool) -> Simulate:
    """Prepare this program for a tier. The services tier changes what time is, so it comes before the product."""
    if tier == "services":
        from tests.simulation import virtual_time  # noqa: PLC0415  # it comes before the product's own imports

        virtual_time.install()
        from tests.simulation import services_world  # noqa: PLC0415  # after the clocks are replaced

        virtual_time.patch_datetime()
        if is_long:
            services_world.be_patient()
        simulate: Simulate = services_world.simulate
    else:
        from tests.simulation import core_world  # noqa: PLC0415  # the other tier must not load the product early

        simulate = core_world.simulate

    if planted is not None:
        from tests.simulation import planted as bugs  # noqa: PLC0415  # it patches the product, so comes after it

        bugs.plant(planted, tier)
    return simulate


def _quiet() -> None:
    # A process that died has left its connections to the collector.
    warnings.filterwarnings("ignore", message="The garbage collector is trying to clean up non-checked-in connection")
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


_WORKER: list[tuple[Simulate, Path]] = []
_PLAN: list[Callable[[int], Plan]] = [draw_core]
_COLLECT_EVERY = 10
"""Schedules. The collector would walk through all of the product again and again."""
_DONE = [0]


def _begin(tier: str, planted: str | None, base: str, is_long: bool) -> None:  # noqa: FBT001  # of a pool's initializer
    _quiet()
    # A short path: a unix socket's has 107 bytes at most.
    (Path(base) / str(os.getpid())).mkdir()
    if tier == "services":
        _PLAN[0] = partial(aimed, tier=tier)
        gc.disable()
    _WORKER.append((_simulator(tier, planted, is_long=is_long), Path(base) / str(os.getpid())))


def _collect() -> None:
    """Now and then; after the first schedule what there is, is the product itself, which stays."""
    if gc.isenabled():
        return
    _DONE[0] += 1
    if _DONE[0] % _COLLECT_EVERY == 1:
        gc.collect()
    if _DONE[0] == 1:
        gc.freeze()


def _one(seed: int) -> Outcome:
    simulate, base = _WORKER[0]
    outcome = simulate(_PLAN[0](seed), base)
    _collect()
    if not outcome.violations:
        del outcome.lines[_KEPT_LINES:]  # only a failure is drawn, unless all are
    return outcome


def shrink(plan: Plan, simulate: Callable[[Plan], Outcome]) -> Outcome:
    """The simplest plan found that breaks the same rule, and what it showed."""
    best = simulate(plan)
    rule = best.violations[0].rule
    left = _SHRINKS
    better = True
    while better and left > 0:
        better = False
        for candidate in simpler(best.plan):
            left -= 1
            outcome = simulate(candidate)
            if outcome.violations and outcome.violations[0].rule == rule:
                best, better = outcome, True
                break
            if left <= 0:
                break
    return best


def _outcomes(arguments: argparse.Namespace, base: str) -> Iterator[Outcome]:
    seeds = range(arguments.seed, arguments.seed + arguments.schedules)
    start = (arguments.tier, arguments.plant, base, arguments.long)
    if arguments.jobs == 1:
        _begin(*start)
        yield from map(_one, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.jobs, _begin, start) as pool:
        yield from pool.imap_unordered(_one, seeds, chunksize=8 if arguments.tier == "services" else 256)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/simulation/run", description=__doc__)
    parser.add_argument("--tier", choices=("core", "services"), required=True)
    parser.add_argument("--schedules", type=int, required=True, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the first seed; the others follow it")
    parser.add_argument("--jobs", type=int, default=1, metavar="J")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--long", action="store_true", help="an empty cell of coverage fails the run")
    parser.add_argument("--plant", choices=BUGS, metavar="BUG", help="put a known bug back, to see that it is found")
    parser.add_argument("--until-found", action="store_true", help="stop at the first violation; do not shrink it")
    parser.add_argument("--chart", action="store_true", help="draw every schedule, not only the first failing one")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 1 where a rule was broken, or a cell stayed empty in a long run."""
    arguments = _parser().parse_args(argv)
    _quiet()
    memory = Path("/dev/shm")  # a folder of its own is made there
    base = tempfile.mkdtemp(prefix="vps", dir=memory if memory.is_dir() else None)
    try:
        return _run(arguments, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _run(arguments: argparse.Namespace, base: str) -> int:
    began_s = time.perf_counter()
    failures: list[Outcome] = []
    hit: set[tuple[str, str, str]] = set()
    count = digest = 0
    settled: list[int] = []
    for outcome in _outcomes(arguments, base):
        count += 1
        if outcome.settled:
            settled.append(outcome.plan.seed)
        hit |= outcome.cells
        digest ^= outcome.digest * (2 * outcome.plan.seed + 1)
        if arguments.chart:
            sys.stdout.write(chart(outcome) + "\n")
        if outcome.violations:
            failures.append(outcome)
            sys.stdout.write(f"seed {outcome.plan.seed}: {_told(outcome)}\n")
            sys.stdout.flush()
            if arguments.until_found:
                break
    if failures and not arguments.until_found:
        _draw(min(failures, key=lambda each: len(each.plan.faults)), arguments, base)
    empty = cells(arguments.tier) - hit
    report = {
        "tier": arguments.tier,
        "schedules": count,
        "violations": len(failures),
        "seconds": round(time.perf_counter() - began_s, 1),
        "cells_hit": len(hit),
        "cells": len(cells(arguments.tier)),
        "first_seed": arguments.seed,
        "digest": digest,
        "settled_by_an_operator": sorted(settled),
        "failures": [outcome.to_json() for outcome in sorted(failures, key=lambda each: each.plan.seed)],
        "empty_cells": sorted(map(list, empty)),
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    shown = {name: report[name] for name in ("tier", "schedules", "violations", "seconds", "cells_hit", "cells")}
    sys.stdout.write(json.dumps(shown) + "\n")
    return 1 if failures or (arguments.long and empty) else 0


def _told(outcome: Outcome) -> str:
    faults = _commas(f"{fault.kind} {fault.party} at {fault.stage}+{fault.after}" for fault in outcome.plan.faults)
    return f"[{faults}] {_commas(f'{each.rule}: {each.detail}' for each in outcome.violations)}"


def _commas(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _draw(failure: Outcome, arguments: argparse.Namespace, base: str) -> None:
    """The failing schedule with fewest faults, made smaller, as a chart."""
    if not _WORKER:
        _begin(arguments.tier, arguments.plant, base, arguments.long)
    simulate, folder = _WORKER[0]
    small = shrink(failure.plan, lambda plan: simulate(plan, folder))
    sys.stdout.write(f"\nseed {failure.plan.seed}, made smaller: {_told(small)}\n```mermaid\n{chart(small)}\n```\n")


if __name__ == "__main__":
    sys.exit(main())
