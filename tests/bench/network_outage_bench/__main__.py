"""What a port's network adds to the guest's own downtime: one guest, ported once in each mode, seen from outside.

A client asks over UDP every 2 ms in both families; the kernel's clock says when an answer came, and when frames
passed the guest's devices. So what goes beyond the downtime falls apart: WAKING, until the guest's first own frame (one
that is emulated is slow at first, and slower where the processors are busy); QUEUE, until it has come to the first
request of those that waited; and NETWORK, what its silence does not explain. ASKED and ANNOUNCED count from its last
reply before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.labkit.connections import KINDS
from deploy.labkit.guests import NEED_DEBIAN, WORKLOADS, GuestSpec
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.plan import CLIENT, TENANT
from deploy.labkit.port_run import run_port
from deploy.labkit.state import GuestRecord
from shared.messages.network import NetworkMode
from tests.bench.network_outage_bench import frames_seen
from tests.bench.network_outage_bench.frames_seen import Frame
from tests.bench.network_outage_bench.timeline import Measured, outage_of
from tests.bench.network_switch_bench.client import FAMILIES, Prober
from tests.bench.network_switch_bench.nodes import spawn
from tests.support.namespaces import inside

EVERY_S = 0.002
WANTED_EXCESS_MS = 150.0
MODES = (NetworkMode.JOINED, NetworkMode.EXTEND, NetworkMode.TRANSLATE, NetworkMode.ANNOUNCE, NetworkMode.ANCHOR)


def ask(prober: Prober, pipe: Any) -> None:
    """Probe until told to end; the times of the answers are the answer."""
    with suppress(OSError):
        os.nice(-15)
    due_s = time.monotonic()
    while not pipe.poll():
        prober.send()
        prober.take()
        due_s = max(due_s + EVERY_S, time.monotonic() - 0.01)
        time.sleep(max(0.0, due_s - time.monotonic()))
    prober.take()
    pipe.send({family: [each.came_ns for each in answers] for family, answers in prober.answers.items()})


@contextmanager
def watching(lab: Lab, record: GuestRecord) -> Iterator[dict[str, Any]]:
    """Meanwhile the client asks and the hosts' frames are noted; both are in the result afterwards."""
    plan = lab.plan
    prober = inside(plan.namespace(CLIENT), lambda: Prober((record.address, record.address6)))
    listeners = {host: inside(plan.namespace(host), frames_seen.listener) for host in plan.providers}
    processes = {"frames": spawn(frames_seen.listen, listeners), "answers": spawn(ask, prober)}
    found: dict[str, Any] = {}
    try:
        yield found
        for name, process in processes.items():
            process.pipe.send(None)
            found[name] = process.pipe.recv()
    finally:
        for process in processes.values():
            process.end()
        for each in listeners.values():
            each.close()


def measure(lab: Lab, mode: NetworkMode, number: int, options: argparse.Namespace) -> Measured:
    """Port one fresh guest from alpha to beta."""
    name = f"seen{number}"
    spec = GuestSpec(name, "alpha", memory_mib=options.memory, workload=options.workload)
    record = lab.guest_start(spec)
    _wait_until_known(lab, record.uuid)
    extra = () if mode is NetworkMode.JOINED else ("--network-mode", mode.value)
    with watching(lab, record) as found:
        run = run_port(lab, name, to="beta", options=extra, connections=options.connections)
        time.sleep(1.0)
    if run.outcome != "completed":
        raise AssertionError(f"{mode}: {run.result}")
    frames: list[Frame] = [each for each in found["frames"] if each.device.startswith(("vnet", "tap"))]
    outages = {family: outage_of(family, frames, found["answers"][family], EVERY_S * 1000) for family in FAMILIES}
    lab.guest_remove(name)
    return Measured(
        mode.value,
        float(run.result["sla"]["measured_downtime_ms"]),
        {family: each for family, each in outages.items() if each is not None},
        None if run.connections is None else run.connections.kept,
    )


def _wait_until_known(lab: Lab, uuid: str) -> None:
    deadline_s = time.monotonic() + 60.0
    while uuid not in lab.exec(TENANT, ["vmport", "--format", "json", "vm", "list"]).stdout:
        if time.monotonic() > deadline_s:
            raise AssertionError(f"the broker does not know guest {uuid}")
        time.sleep(0.5)


def table(found: Sequence[Measured]) -> Table:
    """A row per port and family."""
    columns = ("DOWNTIME", "OUTAGE", "BEYOND", "WAKING", "QUEUE", "NETWORK", "ASKED", "ANNOUNCED (ms)", "KEPT")
    shown = Table("MODE", "FAMILY", *columns)
    for port in found:
        for family, each in port.outages.items():
            figures = (port.downtime_ms, each.outage_ms, port.excess_ms[family])
            parts = (each.spoke_ms - port.downtime_ms, each.silent_ms - each.spoke_ms, each.network_ms)
            moments = (each.asked_ms, each.announced_ms)
            cells = ["-" if value is None else f"{value:.0f}" for value in (*figures, *parts, *moments, port.kept)]
            shown.add_row(port.mode, family, *cells)
    return shown


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends the process with code 2 for a wrong one."""
    parser = argparse.ArgumentParser(prog="tests/bench/network_outage", description=__doc__)
    parser.add_argument("--modes", nargs="+", type=NetworkMode, choices=MODES, default=MODES[1:], metavar="MODE")
    parser.add_argument("--runs", type=int, default=1, help="ports of each mode")
    parser.add_argument("--workload", choices=WORKLOADS, default="web", help="what the guest does")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parser.add_argument("--link", default="100mbit", help="rate of each provider's uplink")
    parser.add_argument("--rtt", default="20ms", help="round-trip time between providers")
    parser.add_argument("--connections", action="store_true", help="have a client's 50 connections open meanwhile")
    parser.add_argument("--lab", default="netoutage", help="name of the lab, which is taken down first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where an outage is beyond the downtime by more than is wanted, or a connection is lost."""
    options = parse(argv)
    found: list[Measured] = []
    for mode in options.modes:
        lab = Lab(options.lab)
        lab.down()
        try:
            lab.up(LabOptions(link=options.link, rtt=options.rtt, network=mode))
            lab.guest_build(debian=options.workload in NEED_DEBIAN)
            for number in range(options.runs):
                found.append(measure(lab, mode, number, options))
                sys.stdout.write(json.dumps({**asdict(found[-1]), "excess_ms": found[-1].excess_ms}) + "\n")
                sys.stdout.flush()
        finally:
            lab.down()
    Console(width=110).print(table(found))
    if options.json is not None:
        rows = [{**asdict(each), "excess_ms": each.excess_ms} for each in found]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    lost = any(each.kept not in {None, sum(KINDS.values())} for each in found)
    return int(lost or any(value > WANTED_EXCESS_MS for each in found for value in each.excess_ms.values()))


if __name__ == "__main__":
    sys.exit(main())
