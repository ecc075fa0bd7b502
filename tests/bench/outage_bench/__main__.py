"""`tests/bench/outage`: what an outage of the link costs a port, beside the same port without it.

A guest goes on writing while the link is away, and what it writes to its disk then is new to the recipient: no way of
sending can spare that. So it is counted, by the donor's hypervisor, and the bytes are compared with and without it.
"""

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

WORKLOADS = ("idle", "memory", "writer")


@dataclass(frozen=True)
class Cost:
    """One pair of ports. `late_s` is what the port took longer than the outage lasted; ratios are with by without.

    `resent_bytes` is what the lanes sent again in the port with the outage; `written_bytes`, what the guest wrote to
    its disks while the link was away; `disk_more_bytes`, how much more the disk lane carried. `own_ratio` is
    `bytes_ratio` without that, as far as the guest wrote so much: it is the outage's own cost.
    """

    outage_s: float
    without_s: float
    with_s: float
    late_s: float
    seconds_ratio: float
    without_bytes: int
    with_bytes: int
    bytes_ratio: float
    own_ratio: float
    resent_bytes: int
    disk_more_bytes: int
    written_bytes: int
    completed: bool
    mismatches: int


@dataclass(frozen=True)
class Bytes:
    """Counters of both nodes so far."""

    resent: int = 0
    disk_lane: int = 0

    def since(self, before: Bytes) -> Bytes:
        """What came after that."""
        return Bytes(self.resent - before.resent, self.disk_lane - before.disk_lane)


@dataclass(frozen=True)
class Measured:
    """One port and what its lanes carried."""

    run: PortRun
    bytes: Bytes = Bytes()


def cost(without: Measured, with_outage: Measured, *, outage_s: float, mismatches: int, written_bytes: int = 0) -> Cost:
    """Compare two ports of equal guests; bytes are those of the lanes, repetitions included."""
    runs = without.run, with_outage.run
    completed = tuple(run.outcome for run in runs) == ("completed", "completed")
    seconds = [run.result["sla"]["measured_total_s"] if completed else 0.0 for run in runs]
    sizes = [run.result["wire_bytes"] if completed else 0 for run in runs]
    disk_more_bytes = with_outage.bytes.disk_lane - without.bytes.disk_lane
    guests_own = max(0, min(disk_more_bytes, written_bytes))
    return Cost(
        outage_s=round(outage_s, 2),
        without_s=seconds[0],
        with_s=seconds[1],
        late_s=round(seconds[1] - seconds[0] - outage_s, 2),
        seconds_ratio=round(seconds[1] / seconds[0], 3) if completed else 0.0,
        without_bytes=sizes[0],
        with_bytes=sizes[1],
        bytes_ratio=round(sizes[1] / sizes[0], 4) if completed else 0.0,
        own_ratio=round((sizes[1] - guests_own) / sizes[0], 4) if completed else 0.0,
        resent_bytes=with_outage.bytes.resent,
        disk_more_bytes=disk_more_bytes,
        written_bytes=written_bytes,
        completed=completed,
        mismatches=mismatches,
    )


def counted(metrics: str) -> Bytes:
    """What a node's metrics say so far. Pure."""
    resent = disk_lane = 0.0
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("vmport_lane_retransmitted_bytes_total{"):
            resent += float(value)
        elif name.startswith("vmport_stream_wire_bytes_total{") and 'lane="disk"' in name and "outbound" in name:
            disk_lane += float(value)
    return Bytes(int(resent), int(disk_lane))


def lane_bytes(lab: Lab) -> Bytes:
    """What both nodes' lanes have sent again so far, and what went out on their disk lanes."""
    found = [counted(lab.metrics(name)) for name in ("node-alpha", "node-beta")]
    return Bytes(sum(each.resent for each in found), sum(each.disk_lane for each in found))


def written_bytes(block_stats: str) -> int:
    """What `virsh domblkstat` says that a guest has written. Pure."""
    return sum(int(line.split()[-1]) for line in block_stats.splitlines() if line.split()[-2:-1] == ["wr_bytes"])


def start(lab: Lab, name: str, workload: str) -> None:
    """Start one guest. `memory` is `writer` without its writes to the disk."""
    kind = "writer" if workload == "memory" else workload
    settings = {} if kind == "idle" else WRITER
    lab.guest_start(GuestSpec(name=name, provider="alpha", memory_mib=256, workload=kind, settings=settings))
    if workload == "memory":
        lab.guest_report(name, "pause-disk")


def measure(lab: Lab, number: int, *, host: str, seconds: float, workload: str) -> Cost:
    """Port two equal guests from alpha to beta, the second with an outage."""
    plain, cut = f"plain{number}", f"cut{number}"
    outage = CutInMemoryPhase(lab, host, seconds, count=lambda: written_bytes(lab.virsh("alpha", "domblkstat", cut)))
    found: list[Measured] = []
    for name in (plain, cut):
        start(lab, name, workload)
        before = lane_bytes(lab)
        run = run_port(lab, name, to="beta", on_event=outage if name == cut else lambda _: None)
        outage.finish()
        found.append(Measured(run, lane_bytes(lab).since(before)))
    report = lab.guest_report(cut)
    wrong = report.get("mismatches", 0) + report.get("disk_mismatches", 0)
    result = cost(*found, outage_s=outage.cut_s, mismatches=wrong, written_bytes=outage.grown)
    for name in (plain, cut):
        lab.guest_remove(name)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when every port completed without a mismatch."""
    parser = argparse.ArgumentParser(prog="tests/bench/outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the link is away")
    parser.add_argument("--host", choices=("alpha", "beta"), default="alpha", help="whose link; alpha is the donor")
    parser.add_argument("--link", default="30mbit", help="rate of each provider's uplink")
    parser.add_argument("--workload", choices=WORKLOADS, default="writer", help="what the guest does")
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
