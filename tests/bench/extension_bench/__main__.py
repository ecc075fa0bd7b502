"""`tests/bench/extension`: how fast a guest's traffic crosses a network extension.

A guest's namespace behind the recipient's bridge speaks to the donor's bridge: one bulk TCP connection each way, over
IPv4 and IPv6, and round trips of single bytes, idle and beside a bulk connection. Both ends are processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from shared.page_stream.bodies import LaneRole
from shared.parties import BROKER
from tests.bench.extension_bench import traffic
from tests.support.extension_ends import (
    GUEST_4,
    GUEST_6,
    NODES,
    ROUTER_4,
    EndProcess,
    Networks,
    Way,
    direct,
    extension_ends,
    networks,
    relayed,
)
from tests.support.lane_credentials import make_pair
from tests.support.rabbitmq_node import RabbitNode

PORT = 5201
WANTED_MBIT = {"direct": 200, "relay": 100}


@contextmanager
def server(namespace: str) -> Iterator[None]:
    """The traffic program serves there."""
    command = ["ip", "netns", "exec", namespace, sys.executable, traffic.__file__, "serve", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.terminate()


def start(namespace: str, word: str, host: str, seconds: float) -> subprocess.Popen[str]:
    """A client of it."""
    command = ["ip", "netns", "exec", namespace, sys.executable, traffic.__file__, word, host, str(PORT), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(client: subprocess.Popen[str]) -> dict[str, float]:
    """What it found."""
    output, _ = client.communicate(timeout=120)
    return dict(json.loads(output)) if client.returncode == 0 else {}


def mbit(found: dict[str, float]) -> float:
    """Megabits per second of payload."""
    return round(found["bytes"] * 8 / 1e6 / found["seconds"], 1) if found else 0.0


def measure(where: Networks, ends: dict[LaneRole, EndProcess], seconds: float) -> dict[str, Any]:
    """All figures of one route. The donor's side is the client, the guest serves."""
    figures: dict[str, Any] = {}
    with server(where.guest), server(where.donor):
        figures["guest_speaks_first"] = finish(start(where.guest, "echo", ROUTER_4, 1.0))
        figures["idle"] = finish(start(where.donor, "echo", GUEST_4, 2.0))
        for name, host in (("ipv4", GUEST_4), ("ipv6", GUEST_6)):
            figures[f"to_guest_{name}_mbit"] = mbit(finish(start(where.donor, "send", host, seconds)))
            figures[f"from_guest_{name}_mbit"] = mbit(finish(start(where.donor, "take", host, seconds)))
        figures["packets_to_guest"] = finish(start(where.donor, "packets", GUEST_4, seconds))
        bulk = start(where.donor, "send", GUEST_4, seconds)
        figures["beside_bulk"] = finish(start(where.guest, "echo", ROUTER_4, seconds / 2))
        finish(bulk)
    figures["ends"] = {role.name.lower(): end.stop() for role, end in ends.items()}
    carried = sum(each.get("out_bytes", 0) for each in figures["ends"].values())
    cpu_s = sum(each.get("cpu_s", 0.0) for each in figures["ends"].values())
    figures["cpu_s_per_gb"] = round(cpu_s / (carried / 1e9), 2) if carried else None
    return figures


@contextmanager
def ways(wanted: str, directory: Path) -> Iterator[dict[str, Way]]:
    """The routes to be measured."""
    with contextlib.ExitStack() as stack:
        found = {"direct": direct()} if wanted != "relay" else {}
        if wanted != "direct":
            rabbitmq = RabbitNode(directory / "rabbitmq", (BROKER, *NODES.values()))
            stack.callback(rabbitmq.close)
            rabbitmq.start()
            found["relay"] = stack.enter_context(relayed(rabbitmq))
        yield found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where less was reached than is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="per connection (default %(default)s)")
    parser.add_argument("--route", choices=("direct", "relay", "both"), default="both")
    parser.add_argument("--profile", type=Path, help="write a profile of each end into this directory")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        credentials = make_pair(Path(directory))
        with ways(options.route, Path(directory)) as routes:
            for name, way in routes.items():
                with networks() as where, extension_ends(where, way, credentials, profile=options.profile) as ends:
                    found[name] = measure(where, ends, options.seconds)
                print(name, json.dumps(found[name]))  # noqa: T201  # its result
    found["cores"], found["load_15_min"] = os.cpu_count(), os.getloadavg()[2]
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    # Of what is asked for: TCP. Packets of 1400 bytes are told beside it.
    rates = {name: [value for key, value in found[name].items() if key.endswith("_mbit")] for name in routes}
    return int(any(min(each) < WANTED_MBIT[name] for name, each in rates.items()))


if __name__ == "__main__":
    raise SystemExit(main())
