"""`tests/bench/switchover`: the time of the grant, with many ports in flight."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.switchover_bench.figures import CpuMeter, percentile
from tests.bench.switchover_bench.players import Play, Players
from tests.bench.switchover_bench.servers import Servers

_DESCRIPTION = """\
Measure how long a guest stands still for the broker's grant while many ports are in flight: from GuestPaused and
RequestSwitchover, sent at the same instant, to the arrival of SwitchoverGranted. A RabbitMQ node, a ledger and the real
vmport-broker are started for it, and ended. One process plays all the other parties with real messages.
"""
_EPILOG = """\
The load: N ports are in flight all the time; when one ends, the next is asked for, with six quotes and all its lanes.
Each transfer lasts about --transfer seconds, with progress once a second and the question whether the broker could
commit every three seconds from both nodes. All processes, the players too, share the machine's processors; the report
says what each of them used, and what everybody else did.

Exit code: 0 all ports completed; 1 some did not; 2 wrong usage.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/switchover",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ports", type=int, default=100, metavar="N", help="ports in flight (default: 100)")
    parser.add_argument("--ledger", choices=("sqlite", "postgresql"), default="sqlite", help="default: sqlite")
    parser.add_argument("--brokers", type=int, default=1, metavar="N", help="vmport-broker processes (default: 1)")
    parser.add_argument("--transfer", type=float, default=10.0, metavar="S", help="length of a transfer (default: 10)")
    parser.add_argument("--grants", type=int, default=200, metavar="N", help="ports to measure (default: 200)")
    parser.add_argument("--warm-up", type=int, metavar="N", help="ports before that (default: as many as --ports)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    if min(options.ports, options.grants, options.brokers) < 1:
        parser.error("--ports, --grants and --brokers are at least 1")
    if options.brokers > 1 and options.ledger == "sqlite":
        parser.error("several brokers need --ledger postgresql")
    return options


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start everything, play, and return the figures."""
    warm_up: int = options.ports if options.warm_up is None else options.warm_up
    vms = warm_up + options.grants + 2 * options.ports + 10
    async with (
        Servers(options.ledger, options.brokers) as servers,
        Players(servers.rabbit, Play(options.ports, options.transfer, vms)) as players,
    ):
        await players.until_known()
        players.begin()
        await players.until_ended(warm_up)
        players.reset()
        meter, began_s = CpuMeter(servers.processes), time.perf_counter()
        await players.until_ended(options.grants)
        wall_s = time.perf_counter() - began_s
        seen, cores = players.seen, meter.read()
    return {
        "ports": options.ports,
        "ledger": options.ledger,
        "brokers": options.brokers,
        "transfer_s": options.transfer,
        "grants": len(seen.grants_ms),
        "p50_ms": round(percentile(seen.grants_ms, 0.5), 1),
        "p90_ms": round(percentile(seen.grants_ms, 0.9), 1),
        "p99_ms": round(percentile(seen.grants_ms, 0.99), 1),
        "max_ms": round(max(seen.grants_ms, default=0.0), 1),
        "ports_per_minute": round(seen.ends.total() / wall_s * 60, 1),
        "seconds": round(wall_s, 1),
        "cores": cores,
        "players_late_p99_ms": round(percentile(seen.lag_ms, 0.99), 1),
        "load": [round(each, 2) for each in os.getloadavg()],
        "ends": dict(seen.ends),
        "said": dict(seen.said),
        "problems": dict(seen.problems.most_common(3)),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    # SIGTERM ends it as Ctrl-C does: no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    figures = asyncio.run(measure(options))
    text = json.dumps(figures, indent=1)
    sys.stdout.write(text + "\n")
    if options.json is not None:
        options.json.write_text(text + "\n")
    return 0 if set(figures["ends"]) <= {"completed"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
