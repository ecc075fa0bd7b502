"""From the commit of a rule to the first answered packet: switches of a VM's network, there and back, in each mode.

The networks are those of a routed lab, with real routing daemons; the rules are made by the node agents' own code, in
the namespaces of the two providers and of the neutral gateways. A host of a few lines stands for the guest at each
side: one stands still and the other one runs in the very instant of the switch, so that all that is measured is the
network. A client outside both providers asks both families every millisecond.

A switch begins with the donor's word that the guest stands still, and is over with the first answer from the
recipient's side to a packet that was sent later. A rollback begins when the guest runs on at the donor, after the
recipient's side has been announced but has not run. `commit` is when the last rule of it was in the kernel; what is
answered before that needed none. `silence after` is the longest wait for an answer in the half second that follows.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from uuid import UUID, uuid4

import structlog
from rich.console import Console
from rich.table import Table

from deploy.labkit.plan import CLIENT, GUEST_BRIDGE
from shared.messages.addresses import ServeAddresses
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.bench.network_switch_bench import client, guest
from tests.bench.network_switch_bench.client import FAMILIES, Seen
from tests.bench.network_switch_bench.nodes import GatewayHost, Process, SideHost, spawn, spawn_host
from tests.bench.network_switch_bench.places import DONOR, GUEST_MAC, MODES, RECIPIENT, Places, places
from tests.bench.switchover_bench.figures import percentile
from tests.support.lane_credentials import Pair, make_pair
from tests.support.namespaces import inside, ip

WANTED_MEAN_MS = 100.0
ANSWER_WITHIN_S = 5.0
_MARKS = {DONOR: 1, RECIPIENT: 2}
_TAPS = {DONOR: "vnet0", RECIPIENT: "vnet1"}


@dataclass(frozen=True)
class Switch:
    """One switch or rollback. `answer_ms` and `silence_ms` are by family; None: nothing was answered in time."""

    commit_ms: float
    answer_ms: dict[str, float | None]
    silence_ms: dict[str, float]


class Stage:
    """Everything of one mode: hosts, the guest's two places, the client."""

    def __init__(self, where: Places, credentials: Pair, stack: ExitStack, directory: Path) -> None:
        self._where, self._credentials = where, credentials
        plan = where.plan
        addresses = (where.guest.address, where.guest.address6)
        self._sides: dict[str, Process] = {}
        for name, side in ((DONOR, Side.OUTBOUND), (RECIPIENT, Side.INBOUND)):
            make = partial(SideHost, where, side, credentials, directory / name)
            self._sides[name] = spawn_host(plan.namespace_path(name), make)
        self._gateways = [
            spawn_host(plan.namespace_path(name), partial(GatewayHost, directory / name)) for name in plan.gateways
        ]
        taps = {name: inside(plan.namespace(name), partial(guest.open_tap, device)) for name, device in _TAPS.items()}
        answers = {name: guest.Answers(GUEST_MAC, addresses, mark) for name, mark in _MARKS.items()}
        self._guest = spawn(guest.serve, taps, answers)
        prober = inside(plan.namespace(CLIENT), lambda: client.Prober(addresses))
        self._client = spawn(client.serve, prober)
        stack.callback(prober.close)
        for each in (*self._sides.values(), *self._gateways, self._client):
            stack.callback(each.end)
        stack.callback(lambda: self._guest.pipe.send(("end", "")))
        for tap in taps.values():
            os.close(tap)  # the guest's process has it
        ip("-n", plan.namespace(DONOR), "link", "set", _TAPS[DONOR], "master", GUEST_BRIDGE, "up")
        ip("-n", plan.namespace(RECIPIENT), "link", "set", _TAPS[RECIPIENT], "up")
        self._guest_runs(DONOR)
        self._seen(time.time_ns(), DONOR)
        self._epoch = 1

    # ---- one after the other ----

    def switch(self) -> Switch:
        """To the recipient, and home again unmeasured."""
        with self._port() as port_id:
            since_ns = time.time_ns()
            self._guest_stands(DONOR)
            self._sides[DONOR].say("moment", "guest_stands_still", port_id)
            self._serve(port_id, away=True)
            self._guest.pipe.send(("announce", RECIPIENT))
            self._guest_runs(RECIPIENT)
            self._sides[RECIPIENT].say("moment", "guest_has_arrived", port_id)
            self._sides[DONOR].say("moment", "guest_is_away", port_id)
            found = self._found(since_ns, RECIPIENT)
            self._guest_stands(RECIPIENT)
            self._serve(port_id, away=False)
            self._guest_runs(DONOR)
        return found

    def rollback(self) -> Switch:
        """The guest was announced at the recipient, has not run there, and runs on at the donor."""
        with self._port() as port_id:
            self._guest_stands(DONOR)
            self._sides[DONOR].ask("moment", "guest_stands_still", port_id)
            self._serve(port_id, away=True)
            self._guest.pipe.send(("announce", RECIPIENT))
            time.sleep(0.5)
            since_ns = time.time_ns()
            self._guest_runs(DONOR)
            self._serve(port_id, away=False)
            self._sides[DONOR].say("moment", "guest_runs_on", port_id)
            return self._found(since_ns, DONOR)

    @contextmanager
    def _port(self) -> Iterator[UUID]:
        """A port that is prepared at both sides and undone at the end; the guest runs at the donor before and after."""
        port_id = uuid4()
        agreement = self._where.agreement(port_id, self._credentials)
        recipient, donor = self._sides[RECIPIENT], self._sides[DONOR]
        recipient.ask("prepare", agreement, {})
        there = self._where.plan.namespace(RECIPIENT)
        ip("-n", there, "link", "set", _TAPS[RECIPIENT], "master", self._where.bridge(port_id), "up")
        donor.ask("prepare", agreement, {GUEST_MAC: _TAPS[DONOR]})
        donor.ask("met", port_id)
        recipient.ask("met", port_id)
        self._seen(time.time_ns(), DONOR)
        yield port_id
        for side in (donor, recipient):
            left = side.ask("undo", port_id)
            if left:
                raise AssertionError(f"left behind: {left}")
        self._seen(time.time_ns(), DONOR)

    def _serve(self, port_id: UUID, *, away: bool) -> None:
        """Gateways hear from the broker that the epoch is committed, or given back."""
        self._epoch += 1
        told = ServeAddresses(
            port_id=port_id,
            vm_uuid=self._where.agreement(port_id, self._credentials).vm_uuid,
            epoch=self._epoch,
            owner=RECIPIENT if away else DONOR,
            care_of=self._where.care_of if away else (),
        )
        for gateway in self._gateways:
            gateway.say("serve", told)

    def _found(self, since_ns: int, place: str) -> Switch:
        seen = self._client_saw(since_ns, place)
        changed = [each.ask("committed") for each in (self._sides[DONOR], *self._gateways)]
        answers = {name: None if each is None else (each.first_ns - since_ns) / 1e6 for name, each in seen.items()}
        silences = {name: each.silence_ms for name, each in seen.items() if each is not None}
        return Switch(max(0.0, (max(changed) - since_ns) / 1e6), answers, silences)

    def _seen(self, since_ns: int, place: str) -> None:
        """Return when both families are answered from there. Raises AssertionError."""
        seen = self._client_saw(since_ns, place)
        if None in seen.values():
            raise AssertionError(f"no answers from {place}: {seen}")

    def _client_saw(self, since_ns: int, place: str) -> dict[str, Seen | None]:
        self._client.pipe.send((since_ns, _MARKS[place], time.time() + ANSWER_WITHIN_S))
        return dict(self._client.pipe.recv())

    def _guest_runs(self, place: str) -> None:
        self._guest.pipe.send(("run", place))

    def _guest_stands(self, place: str) -> None:
        self._guest.pipe.send(("stand", place))


def figures(switches: Sequence[Switch]) -> dict[str, dict[str, float]]:
    """Mean, median, 95th percentile and longest, of each family's answers and of the commits; what was not answered
    counts as infinite. Pure.
    """
    columns = {family: [_or_never(each.answer_ms[family]) for each in switches] for family in FAMILIES}
    columns["commit"] = [each.commit_ms for each in switches]
    columns["silence after"] = [max(each.silence_ms.values(), default=0.0) for each in switches]
    return {
        name: {
            "mean_ms": round(mean(values), 1),
            "median_ms": round(median(values), 1),
            "p95_ms": round(percentile(values, 0.95), 1),
            "max_ms": round(max(values), 1),
        }
        for name, values in columns.items()
    }


def _or_never(answer_ms: float | None) -> float:
    return float("inf") if answer_ms is None else answer_ms


def measure(mode: NetworkMode, switches: int, name: str) -> dict[str, list[Switch]]:
    """All switches and rollbacks of one mode, after one of each that does not count."""
    with (
        tempfile.TemporaryDirectory() as directory,
        places(name, mode) as where,
        ExitStack() as stack,
    ):
        stage = Stage(where, make_pair(Path(directory)), stack, Path(directory))
        stage.switch()
        stage.rollback()
        found: dict[str, list[Switch]] = {"switch": [], "rollback": []}
        for _ in range(switches):
            found["switch"].append(stage.switch())
            found["rollback"].append(stage.rollback())
    return found


def table(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> Table:
    """A row per mode, direction and family."""
    shown = Table("MODE", "", "FROM COMMAND TO", "MEAN", "MEDIAN", "P95", "MAX (ms)")
    for mode, directions in found.items():
        for direction, columns in directions.items():
            for name, row in columns.items():
                shown.add_row(mode, direction, name, *(f"{value:.1f}" for value in row.values()))
    return shown


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends the process with code 2 for a wrong one."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/network_switch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write network_switch.json and .txt into this directory"
    )
    parser.add_argument("--switches", type=int, default=20, metavar="N", help="of each mode and direction")
    parser.add_argument("--modes", nargs="+", type=NetworkMode, choices=MODES, default=MODES, metavar="MODE")
    parser.add_argument("--quick", action="store_true", help="3 switches of each, to see that it works")
    parser.add_argument("--lab", default="netswitch", help="name of the lab, which is taken down first")
    options = parser.parse_args(argv)
    options.switches = 3 if options.quick else options.switches
    if options.switches < 1:
        parser.error("at least one switch")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a mean is not below what is wanted."""
    options = parse(argv)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    raw = {mode.value: measure(mode, options.switches, options.lab) for mode in options.modes}
    found = {
        mode: {direction: figures(switches) for direction, switches in directions.items()}
        for mode, directions in raw.items()
    }
    console = Console()
    console.print(table(found))
    result = {
        "switches": options.switches,
        "cores": os.cpu_count(),
        "load_1_min": os.getloadavg()[0],
        "wanted_mean_ms": WANTED_MEAN_MS,
        "figures": found,
        "single": {
            mode: {name: [asdict(one) for one in each] for name, each in of.items()} for mode, of in raw.items()
        },
    }
    if options.out is not None:
        (options.out / "network_switch.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        with (options.out / "network_switch.txt").open("w", encoding="utf-8") as file:
            Console(file=file, width=110).print(table(found))
    means = [columns[family]["mean_ms"] for of in found.values() for columns in of.values() for family in FAMILIES]
    return int(max(means) >= WANTED_MEAN_MS)


if __name__ == "__main__":
    sys.exit(main())
