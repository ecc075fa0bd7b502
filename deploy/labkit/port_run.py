"""Runs one port with the `vmport` command in the tenant's host and measures it from outside.

Owns the measuring: events with their times, bytes on the uplink by the link's counters, the outage that a client sees,
and how its open connections fare.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from deploy.labkit.connection_report import Report
from deploy.labkit.connections import LAST_ANSWER_WITHIN_S
from deploy.labkit.echo_probe import Seen
from deploy.labkit.errors import LabError
from deploy.labkit.guests import ECHO_PORT
from deploy.labkit.lab import Lab
from deploy.labkit.network import LinkBytes
from deploy.labkit.plan import CLIENT, TENANT
from deploy.labkit.state import GuestRecord

PROBE_INTERVAL_MS = 5
SETTLED_AFTER_S = 0.5
"""What a guest is silent for so soon after the switchover belongs to it, too."""
Event = dict[str, Any]


@dataclass(frozen=True)
class PhaseTime:
    """How long the port was in a phase."""

    phase: str
    seconds: float


@dataclass(frozen=True)
class PortRun:
    """A port that ended, however it did, and what was measured meanwhile."""

    port_id: str
    outcome: str
    result: Event
    record: Event
    seen: Seen
    wire: LinkBytes
    errors: str = ""
    events: list[Event] = field(default_factory=list)
    connections: Report | None = None
    """How the client's connections fared, where they were watched."""

    @property
    def wire_bytes(self) -> int:
        """Bytes on the donor's uplink, both directions together."""
        return self.wire.sent + self.wire.received

    def switchover_outage_ms(self) -> dict[str, float]:
        """By family, the silence of UDP echo that is the switchover's; empty where none was watched, or none came."""
        span = switchover_span(self.record)
        if span is None or self.connections is None:
            return {}
        return {family: each.outage_within_ms(*span) for family, each in self.connections.udp.items()}

    def phases(self) -> list[PhaseTime]:
        """Time per phase, from the broker's record; within the transfer, by what the node was moving."""
        return phase_times(self.record, self.events)


def run_port(
    lab: Lab,
    guest: str,
    *,
    to: str,
    options: tuple[str, ...] = (),
    on_event: Callable[[Event], None] = lambda _: None,
    connections: bool = False,
) -> PortRun:
    """Port a guest of the lab and follow it to its end. Raises `LabError` if it cannot even be asked for.

    With `connections`, a client has its 50 open meanwhile; it needs a guest with IPv6.
    """
    record = lab.guest(guest)
    donor = lab.guest_place(guest).provider
    events: list[Event] = []
    with ExitStack() as clients:
        finish_connections = clients.enter_context(connection_client(lab, record)) if connections else None
        finish_probe = clients.enter_context(echo_client(lab, record.address))
        before = lab.read_link_bytes(donor)
        errors = ""
        command = ["vmport", "--format", "json", "port", "create", record.uuid, "--to", to, "--watch", *options]
        for event in event_lines(lab, command):
            if event["type"] == "Error":
                errors = event["data"]
                continue
            events.append(event)
            on_event(event)
        wire = lab.read_link_bytes(donor).since(before)
        seen = finish_probe()
        fared = finish_connections() if finish_connections is not None else None
    if not events or events[-1]["type"] != "Outcome":
        raise LabError(f"the port of {guest} was not followed to its end: {errors or 'no answer'}")
    result = events[-1]["data"]
    shown = lab.exec(TENANT, ["vmport", "--format", "json", "port", "show", result["port_id"]])
    kept = json.loads(shown.stdout) if shown.returncode == 0 else {}
    return PortRun(result["port_id"], result["outcome"], result, kept, seen, wire, errors, events, fared)


def switchover_span(record: Event) -> tuple[float, float] | None:
    """When the switchover began and was settled, by the broker's record (seconds since 1970); None: none. Pure.

    The guest stands still from a little earlier, and a silence that began then touches this time.
    """
    marks = [(datetime.fromisoformat(event["at"]).timestamp(), event["phase"]) for event in record.get("events", [])]
    began = [at for at, phase in marks if phase == "switching"]
    if not began:
        return None
    later = [at for at, phase in marks if at >= began[0] and phase != "switching"]
    return began[0], min(later, default=began[-1]) + SETTLED_AFTER_S


def phase_times(record: Event, events: list[Event]) -> list[PhaseTime]:
    """Time per phase in the order of their beginnings: the record's, the transfer split by what it moved. Pure."""
    marks = [(datetime.fromisoformat(event["at"]), event["phase"], "") for event in record.get("events", [])]
    marks += [
        (datetime.fromisoformat(event["time"]), "", f"transferring: {event['data']['phase']}")
        for event in events
        if event["type"] == "PortProgressed"
    ]
    marks.sort(key=lambda mark: mark[0])
    spans: dict[str, float] = {}
    coarse = name = ""
    since: datetime | None = None
    for at, phase, detail in marks:
        if since is not None and name:
            spans[name] = spans.get(name, 0.0) + (at - since).total_seconds()
        since = at
        if phase and phase != coarse:
            coarse = name = phase
        elif detail and coarse == "transferring":
            name = detail
    return [PhaseTime(phase, round(seconds, 2)) for phase, seconds in spans.items()]


def event_lines(lab: Lab, command: list[str]) -> Iterator[Event]:
    """Run a `vmport --format json` command in the tenant's host; its lines as they come, then `Error` if it failed."""
    process = subprocess.Popen(
        lab.exec_argv(TENANT, command),
        env=lab.exec_environment(TENANT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        if process.stdout is None or process.stderr is None:
            raise LabError("the command's output cannot be read")
        for line in process.stdout:
            yield json.loads(line)
        said = process.stderr.read().strip()
    if process.returncode != 0:
        yield {"type": "Error", "data": said}


@contextmanager
def echo_client(lab: Lab, address: str) -> Iterator[Callable[[], Seen]]:
    """An echo client in the client's host; the yielded function ends it and returns what it saw."""
    with _client(lab, "echo_probe", address, str(ECHO_PORT), str(PROBE_INTERVAL_MS)) as process:
        yield lambda: Seen(**json.loads(_finish(process, "echo client")))


@contextmanager
def connection_client(lab: Lab, guest: GuestRecord) -> Iterator[Callable[[], Report]]:
    """A client with open connections, all of them answered once; the yielded function ends it and says how they fared.

    Raises `LabError` if it does not come up; a connection that cannot be opened is lost, and no error.
    """
    with _client(lab, "connections", guest.address, guest.address6) as process:
        if process.stdout is None or not process.stdout.readline():
            raise LabError(f"the client's connections were not opened: {_finish(process, 'connection client')}")
        yield lambda: Report.from_json(json.loads(_finish(process, "connection client")))


@contextmanager
def _client(lab: Lab, module: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A program of this package in the client's host, which runs until its standard input is closed."""
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", f"deploy.labkit.{module}", *arguments]
    process = subprocess.Popen(
        lab.exec_argv(CLIENT, ["env", f"PYTHONPATH={root}", *command]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=10)


def _finish(process: "subprocess.Popen[str]", what: str) -> str:
    """Close its input and return what it printed since. Raises `LabError` if it fails or does not end."""
    try:
        output, errors = process.communicate(timeout=LAST_ANSWER_WITHIN_S + 15)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"the {what} does not end") from error
    if process.returncode != 0:
        raise LabError(f"the {what} failed: {errors.strip()}")
    return output
