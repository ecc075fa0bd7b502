"""Breaks one thing after the other in a lab while a guest is ported, and verifies what came of it.

    tests/chaos/run --json F                      all cells: every fault at every phase (about two hours)
    tests/chaos/run --only kill-broker --json F   one fault, or all whose name begins so; may be repeated
    tests/chaos/run --phase committed --json F    one phase; may be repeated
    tests/chaos/run --network extend --json F     between networks that share nothing: connections and leftovers, too
    tests/chaos/run --resume --json F             what F does not hold, and what it holds as bad
    tests/chaos/run --list                        the cells, and what each fault does; runs nothing
    tests/chaos/run --table F                     the table of a finished run, for docs/reliability.md

Needs root and what deploy/bootstrap installs. Exit status: 0 all cells are good, 1 one is not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.labkit import services
from deploy.labkit.errors import LabError
from deploy.labkit.lab import Lab
from shared.messages.network import NetworkMode
from tests.chaos.cells import Cell, Phase, from_json, table, to_json
from tests.chaos.faults import FAULTS, matrix
from tests.chaos.observe import NotReached, watch_ahead_of_others
from tests.chaos.run_cell import Cells
from tests.chaos.site import Site

LAB_NAME = "chaos"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(argv)
    if options.table is not None:
        print(table(from_json(options.table.read_text(encoding="utf-8"))), end="")
        return 0
    if options.json is None and not options.list:
        print("--json F is needed: it is the result", file=sys.stderr)
        return 2
    network = NetworkMode(options.network)
    wanted = matrix(options.only, options.phase, network=network)
    known = from_json(options.json.read_text(encoding="utf-8")) if options.resume and options.json else []
    good = [cell for cell in known if not cell.problems()]
    wanted = [(fault, phase) for fault, phase in wanted if not any(_is(cell, fault, phase) for cell in good)]
    if not wanted:
        print("no such cell; --list shows all", file=sys.stderr)
        return 2
    if options.list:
        for name in dict.fromkeys(fault for fault, _ in wanted):
            phases = " ".join(phase for fault, phase in wanted if fault == name)
            print(f"{name:22} {FAULTS[name].text}\n{'':22} {phases}")
        print(f"{len(wanted)} cells")
        return 0
    # A run that is ended by SIGTERM takes its lab down, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    watch_ahead_of_others()
    cells = run(
        Lab(options.lab),
        wanted,
        result=options.json,
        settle_s=options.settle,
        logs=options.logs,
        known=good,
        network=network,
    )
    print(table(cells), end="")
    return int(any(cell.problems() for cell in cells))


def run(
    lab: Lab,
    wanted: Sequence[tuple[str, Phase]],
    *,
    result: Path | None,
    settle_s: float,
    logs: Path | None = None,
    known: Sequence[Cell] = (),
    network: NetworkMode = NetworkMode.JOINED,
) -> list[Cell]:
    """Run cells in a new lab, which is taken down afterwards; returns them behind the known ones.

    A bad cell is followed by a new lab, too.
    """
    cells: list[Cell] = [*known]
    site: Site | None = None
    lab.down()
    try:
        for name, phase in wanted:
            if site is None:
                site = Site(lab, network=network)
                site.up()
            cell = _one(site, name, phase, settle_s)
            cells.append(cell)
            print(
                f"{name:22} {phase:14} {'; '.join(cell.problems()) or cell.outcome}  {cell.seconds:.0f} s", flush=True
            )
            print(f"    {cell.detail}", flush=True)
            if cell.problems():
                if logs is not None:
                    _keep_logs(lab, logs / f"{name}-{phase}")
                lab.down()
                site = None
            else:
                _remove_guests(site)
            if result is not None:
                result.write_text(to_json(cells), encoding="utf-8")
    finally:
        lab.down()
    return cells


def _is(cell: Cell, fault: str, phase: Phase) -> bool:
    return (cell.fault, cell.phase) == (fault, phase)


def _one(site: Site, name: str, phase: Phase, settle_s: float) -> Cell:
    try:
        return Cells(site, settle_s).run(name, phase)
    except (LabError, NotReached, OSError) as error:
        return Cell(name, phase, "not run", 0, None, None, (), False, 0.0, f"{type(error).__name__}: {error}"[:500])


def _remove_guests(site: Site) -> None:
    for guest in site.lab.guests:
        site.lab.guest_remove(guest)


def _keep_logs(lab: Lab, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for service in services.services(lab.plan):
        if (log := lab.log_file(service.name)).exists():
            shutil.copy(log, folder)


def _parser() -> argparse.ArgumentParser:
    usage, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="tests/chaos/run",
        description=usage,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="FAULT", help="this fault, or all whose name begins so"
    )
    parser.add_argument("--phase", action="append", default=[], choices=[str(phase) for phase in Phase])
    parser.add_argument(
        "--network",
        default=str(NetworkMode.JOINED),
        choices=[str(mode) for mode in NetworkMode],
        help="how ports keep addresses; joined unless given",
    )
    parser.add_argument("--resume", action="store_true", help="keep the good cells of --json and run the rest")
    parser.add_argument("--list", action="store_true", help="show the cells and run nothing")
    parser.add_argument("--lab", metavar="NAME", default=LAB_NAME, help="which lab; it is taken down first")
    parser.add_argument("--json", type=Path, metavar="F", help="write the cells there, after each")
    parser.add_argument("--table", type=Path, metavar="F", help="print the table of this result and run nothing")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the services' logs of bad cells there")
    parser.add_argument(
        "--settle", type=float, default=120.0, metavar="S", help="how long a port may take to end after its fault"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
