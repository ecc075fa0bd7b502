"""What a chaos run sees of a port from outside: logs, the tenant's command, QEMU's processes. Changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.labkit.errors import CommandFailed
from deploy.labkit.lab import Lab
from deploy.labkit.plan import TENANT
from tests.chaos.site import Site

ENDED = frozenset({"completed", "failed", "cancelled", "refused"})
_POLL_S = 0.002
_SAMPLE_S = 0.5
_RAN_NS = 2_000_000
"""CPU time within a sample from which a vCPU counts as running; a paused one uses none."""


class NotReached(Exception):
    """The port did not come to the wanted instant."""


def wait_for(what: str, holds: Callable[[], bool], timeout_s: float, *, poll_s: float = _POLL_S) -> None:
    """Wait until something holds. Raises `NotReached`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise NotReached(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(poll_s)


def watch_ahead_of_others() -> None:
    """Let this process, but nothing that it starts, run before all others: it must stop a process before its next step.

    Nothing changes where that is not permitted.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


class BrokerLog:
    """The broker's log from now on, and what it says of one port."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """All events since the beginning of this object, newest last."""
        with self._path.open("rb") as handle:
            handle.seek(self._offset)
            fresh = handle.read()
        self._offset += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:  # a library's own line, or one that a kill cut off
                continue
            if isinstance(event, dict):
                self.events.append(event)
        return self.events

    def steps(self, port_id: str) -> list[dict[str, Any]]:
        """The port's steps."""
        return [event for event in self.read() if event.get("event") == "port step" and event.get("port_id") == port_id]

    def phase(self, port_id: str) -> str:
        """The port's newest phase; empty before its first step."""
        steps = self.steps(port_id)
        return str(steps[-1]["phase"]) if steps else ""

    def heard(self, port_id: str, message: str) -> bool:
        """Whether the broker has taken in such a message."""
        return any(step["event_type"] == message for step in self.steps(port_id))

    def committed(self, port_id: str) -> bool:
        """Whether the ledger gave the VM to the recipient."""
        return any(step["phase"] == "switching" for step in self.steps(port_id))


class Tenant:
    """The tenant's `vmport port create --watch`, followed in the background; started again as `watch` if it breaks."""

    def __init__(self, lab: Lab, vm_uuid: str, to: str, *options: str) -> None:
        self._lab = lab
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self.port_id = ""
        self.events: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.outcome: dict[str, Any] | None = None
        command = ["port", "create", vm_uuid, "--to", to, "--watch", *options]
        self._thread = threading.Thread(target=self._follow, args=(command,), name="tenant", daemon=True)
        self._thread.start()
        wait_for("the tenant's request", lambda: bool(self.port_id or self.errors or self.outcome), 60)
        if not self.port_id:
            raise NotReached(f"the port was not accepted: {self.errors or self.outcome}")

    def progress(self) -> tuple[str, int]:
        """What the transfer moves now, and how far it is; empty before it moves anything."""
        for event in reversed(self.events):
            if event["type"] == "PortProgressed":
                return str(event["data"]["phase"]), int(event["data"]["percent"])
        return "", 0

    def wait(self, timeout_s: float) -> None:
        """Wait until the tenant knows the end, for so long at most."""
        self._thread.join(timeout_s)

    def close(self) -> None:
        """Stop following."""
        self._closed = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._thread.join(10)

    def _follow(self, command: list[str]) -> None:
        while not self._closed and self.outcome is None:
            for event in self._lines(command):
                self.events.append(event)
                data = event["data"]
                if not self.port_id:
                    self.port_id = str(data.get("port_id") or data.get("summary", {}).get("port_id") or "")
                if event["type"] == "Outcome":
                    self.outcome = data
            if not self.port_id:
                return
            if self.outcome is None:
                time.sleep(1)
            command = ["port", "watch", self.port_id]

    def _lines(self, command: list[str]) -> Iterator[dict[str, Any]]:
        process = subprocess.Popen(
            self._lab.exec_argv(TENANT, ["vmport", "--format", "json", *command]),
            env=self._lab.exec_environment(TENANT),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._process = process
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                yield json.loads(line)
            said = process.stderr.read().strip()
        if process.returncode != 0 and said and self.outcome is None:
            self.errors.append(said.splitlines()[-1][:300])


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal: that is the donor's fence. False if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] in {"T", "t"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def guest_cpu_ns(pid: int) -> int:
    """CPU time of a QEMU's vCPU threads; 0 if it is gone. libvirt starts QEMU with named threads."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "comm").read_text("utf-8").startswith("CPU "):
                total += int((task / "schedstat").read_text("utf-8").split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return total


class CopiesWatch:
    """Looks all the time how many copies of a guest use their vCPUs, by CPU time: whatever libvirt says."""

    def __init__(self, site: Site, vm_uuid: str) -> None:
        self._site = site
        self._vm_uuid = vm_uuid
        self._over = threading.Event()
        self.doubles_s: list[float] = []
        """When two copies ran within two samples that follow each other, in seconds since the beginning."""
        self._thread = threading.Thread(target=self._watch, name="copies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join(10)

    def _watch(self) -> None:
        began, before, double = time.monotonic(), dict[int, int](), False
        while not self._over.wait(_SAMPLE_S):
            pids = [pid for found in self._site.qemus(self._vm_uuid).values() for pid in found]
            now = {pid: guest_cpu_ns(pid) for pid in pids}
            ran = [pid for pid in now if pid in before and now[pid] - before[pid] > _RAN_NS]
            # In the sample of a switchover both copies have run, one after the other.
            if double and len(ran) > 1:
                self.doubles_s.append(round(time.monotonic() - began, 1))
            double, before = len(ran) > 1, now


def running_now(site: Site, vm_uuid: str, *, within_s: float = 2.0) -> list[str]:
    """The providers at which the guest's vCPUs run, by their CPU time within a while."""
    before = {pid: guest_cpu_ns(pid) for pids in site.qemus(vm_uuid).values() for pid in pids}
    time.sleep(within_s)
    found = []
    for provider, pids in site.qemus(vm_uuid).items():
        found += [provider for pid in pids if guest_cpu_ns(pid) - before.get(pid, guest_cpu_ns(pid)) > _RAN_NS]
    return found


def domain_state(site: Site, provider: str, vm_uuid: str) -> str:
    """What libvirt says; empty where it does not know the guest or does not answer."""
    try:
        return site.lab.virsh(provider, "domstate", vm_uuid).strip()
    except CommandFailed:
        return ""
