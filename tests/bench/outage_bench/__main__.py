"""`tests/bench/outage`: what an outage of the link costs a port, beside the same port without it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.labkit.guests import GuestSpec
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.port_run import PortRun, run_port
from tests.support.link_cut import WRITER, CutInMemoryPhase


@dataclass(frozen=True)
class Cost:
    """One pair of ports. `late_s` is what the port took longer than the outage lasted; ratios are with by without.

    `resent_bytes` is what the lanes sent again in the port with the outage; all else that came on top is what the guest
    wrote meanwhile.
    """

    outage_s: float
    without_s: float
    with_s: float
    late_s: float
    seconds_ratio: float
    without_bytes: int
    with_bytes: int
    bytes_ratio: float
    resent_bytes: int
    completed: bool
    mismatches: int


def cost(without: PortRun, with_outage: PortRun, *, outage_s: float, mismatches: int, resent_bytes: int = 0) -> Cost:
    """Compare two ports of equal guests; bytes are those of the lanes, repetitions included."""
    completed = (without.outcome, with_outage.outcome) == ("completed", "completed")
    seconds = [run.result["sla"]["measured_total_s"] if completed else 0.0 for run in (without, with_outage)]
    sizes = [run.result["wire_bytes"] if completed else 0 for run in (without, with_outage)]
    return Cost(
        outage_s=round(outage_s, 2),
        without_s=seconds[0],
        with_s=seconds[1],
        late_s=round(seconds[1] - seconds[0] - outage_s, 2),
        seconds_ratio=round(seconds[1] / seconds[0], 3) if completed else 0.0,
        without_bytes=sizes[0],
        with_bytes=sizes[1],
        bytes_ratio=round(sizes[1] / sizes[0], 4) if completed else 0.0,
        resent_bytes=resent_bytes,
        completed=completed,
        mismatches=mismatches,
    )


def resent_bytes(lab: Lab) -> int:
    """What both nodes' lanes have sent again so far."""
    lines = [line for name in ("node-alpha", "node-beta") for line in lab.metrics(name).splitlines()]
    found = (line for line in lines if line.startswith("vmport_lane_retransmitted_bytes_total{"))
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


def measure(lab: Lab, number: int, *, host: str, seconds: float, workload: str) -> Cost:
    """Port two equal guests from alpha to beta, the second with an outage."""
    names = f"plain{number}", f"cut{number}"
    runs, before_bytes = [], 0
    outage = CutInMemoryPhase(lab, host, seconds)
    for name in names:
        settings = WRITER if workload == "writer" else {}
        lab.guest_start(GuestSpec(name=name, provider="alpha", memory_mib=256, workload=workload, settings=settings))
        before_bytes = resent_bytes(lab)
        runs.append(run_port(lab, name, to="beta", on_event=outage if name == names[1] else lambda _: None))
    outage.finish()
    report = lab.guest_report(names[1])
    wrong = report.get("mismatches", 0) + report.get("disk_mismatches", 0)
    again = resent_bytes(lab) - before_bytes
    found = cost(runs[0], runs[1], outage_s=outage.cut_s, mismatches=wrong, resent_bytes=again)
    for name in names:
        lab.guest_remove(name)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when every port completed without a mismatch."""
    parser = argparse.ArgumentParser(prog="tests/bench/outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the link is away")
    parser.add_argument("--host", choices=("alpha", "beta"), default="alpha", help="whose link; alpha is the donor")
    parser.add_argument("--link", default="30mbit", help="rate of each provider's uplink")
    parser.add_argument("--workload", choices=("idle", "writer"), default="writer", help="what the guest does")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--lab", default="outage", help="name of the lab, which is taken down first")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(argv)
    lab = Lab(options.lab)
    lab.down()
    found: list[Cost] = []
    try:
        lab.up(LabOptions(link=options.link))
        lab.guest_build()
        for number in range(options.runs):
            found.append(measure(lab, number, host=options.host, seconds=options.seconds, workload=options.workload))
            sys.stdout.write(json.dumps(asdict(found[-1])) + "\n")
            sys.stdout.flush()
    finally:
        lab.down()
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n", encoding="utf-8")
    return 0 if all(each.completed and each.mismatches == 0 for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
