"""A lab of its own for the acceptance tests: one for the session, with guests that are removed after each test."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.labkit import services
from deploy.labkit.guests import GuestSpec
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.plan import TENANT
from deploy.labkit.state import GuestRecord
from shared.exit_codes import ExitCode

LAB_NAME = os.environ.get("VMPORT_ACCEPTANCE_LAB", "acceptance")
"""The lab of this name is taken down first: two checkouts on one machine need two names."""
KNOWN_WITHIN_S = 30.0
READY_S = 180.0
LOG_LINES = 60
ALONE_WITHIN_S = 900.0
ENDED = {"completed", "failed", "cancelled", "refused"}


@dataclass
class Tenant:
    """The `vmport` command in the tenant's host, and waiting for what it says."""

    lab: Lab

    def run(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the command with JSON output, whatever its end."""
        return self.lab.exec(TENANT, ["vmport", "--format", "json", *words], timeout_s=timeout_s)

    def ask(self, *words: str) -> Any:
        """Run the command, which must succeed, and read what it prints."""
        done = self.run(*words)
        assert done.returncode == 0, f"vmport {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def refused(
        self, guest: GuestRecord, *options: str, to: str = "beta", code: ExitCode = ExitCode.REFUSED
    ) -> set[str]:
        """Ask for a port that must be refused with rule and evidence; returns the codes."""
        done = self.run("port", "create", guest.uuid, "--to", to, "--watch", *options)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        # The broker refuses at once; a provider refuses a port that is already being watched.
        said = json.loads((done.stdout or done.stderr).splitlines()[-1])
        refusals = (said.get("data") or said["error"])["refusals"]
        assert all(refusal["rule"] and refusal["evidence"] for refusal in refusals)
        return {refusal["code"] for refusal in refusals}

    def create(self, guest: GuestRecord, to: str, *options: str) -> str:
        """Ask for a port, and return its id once it is accepted."""
        return str(self.ask("port", "create", guest.uuid, "--to", to, "--no-wait", *options)["port_id"])

    def wait_for(self, port_id: str, what: str, holds: Callable[[Any], bool], timeout_s: float = 180.0) -> Any:
        """Look at the port until something holds of its record; the port's end, or the time, ends the wait."""
        deadline = time.monotonic() + timeout_s
        while True:
            shown = self.ask("port", "show", port_id)
            if holds(shown):
                return shown
            phase = shown["summary"]["phase"]
            assert phase not in ENDED, f"waited for {what}, but the port is {phase}: {shown.get('failure')}"
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}: {shown['summary']}"
            time.sleep(0.3)

    def wait_for_end(self, port_id: str, timeout_s: float = 240.0) -> Any:
        """The record of the ended port."""
        return self.wait_for(port_id, "the end", lambda shown: shown["summary"]["phase"] in ENDED, timeout_s)

    def wait_for_transfer(self, port_id: str, phase: str, percent: int = 1) -> Any:
        """The record once this kind of data flows."""

        def flows(shown: Any) -> bool:
            progress = shown.get("progress")
            return bool(progress and progress["phase"] == phase and progress["percent"] >= percent)

        return self.wait_for(port_id, f"{phase} at {percent} %", flows)

    def wait_until_known(self, guest: GuestRecord, at: str) -> None:
        """Wait until the broker's registry has the guest at this provider."""
        deadline = time.monotonic() + KNOWN_WITHIN_S
        while not any(vm["uuid"] == guest.uuid and vm["provider"] == at for vm in self.ask("vm", "list")):
            assert time.monotonic() < deadline, f"the registry does not know {guest.name} at {at}"
            time.sleep(0.5)


@dataclass
class Provider:
    """A provider's host, looked at from outside."""

    lab: Lab
    name: str

    def domains(self) -> list[str]:
        """UUIDs of all domains that libvirt knows there."""
        return self.lab.virsh(self.name, "list", "--all", "--uuid").split()

    def images(self) -> set[str]:
        """Every file in the image folder, with its path below it."""
        folder = self.lab.plan.host_dir(self.name) / "var-lib-libvirt" / "images"
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    def port_folders(self) -> list[str]:
        """Run-time folders of ports on the node."""
        listed = self.lab.exec(self.name, ["sh", "-c", "ls -1 /run/vmport 2>/dev/null || true"])
        return [line for line in listed.stdout.split() if line.count("-") == 4]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two providers with all services, and the tiny guest's image; gone after the session."""
    lab = Lab(LAB_NAME)
    with alone(lab):
        lab.down()
        try:
            lab.up()
            lab.guest_build()
            yield lab
        finally:
            lab.down()


@contextmanager
def alone(lab: Lab) -> Iterator[None]:
    """Hold this lab's name, so that two test runs on one machine come one after the other."""
    path = lab.plan.run_dir.parent / f".{lab.plan.name}.tests.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + ALONE_WITHIN_S
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, f"another test run has held lab {lab.plan.name} for too long"
                time.sleep(1)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of every service's log with a failed test: the lab is gone when somebody reads this."""
    report = yield
    if report.failed and isinstance(lab := getattr(item, "funcargs", {}).get("lab"), Lab):
        for service in services.services(lab.plan):
            log = services.log_file(lab.plan, service.name)
            if log.exists():
                lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                report.sections.append((f"log of {service.name}", "\n".join(lines)))
    return report


@pytest.fixture
def tenant(lab: Lab) -> Tenant:
    """The tenant."""
    return Tenant(lab)


@pytest.fixture
def provider(lab: Lab) -> Callable[[str], Provider]:
    """A provider by name."""
    return lambda name: Provider(lab, name)


@pytest.fixture
def slow_link(lab: Lab) -> Iterator[None]:
    """Uplinks of 30 Mbit/s, so that a phase lasts long enough to be met; unshaped again afterwards."""
    lab.up(LabOptions(link="30mbit"))
    yield
    lab.up(LabOptions(link="none"))


@pytest.fixture
def start_guest(lab: Lab, tenant: Tenant) -> Iterator[Callable[..., GuestRecord]]:
    """Start a guest at alpha that the broker knows; it is removed everywhere after the test."""
    started: list[str] = []

    def start(name: str, *, provider: str = "alpha", ready_s: float | None = READY_S, **facts: Any) -> GuestRecord:
        spec = GuestSpec(name=name, provider=provider, **{"memory_mib": 256, **facts})
        started.append(name)
        record = lab.guest_start(spec, ready_s=ready_s)
        tenant.wait_until_known(record, provider)
        return record

    yield start
    # A port that a failed test left under way would fight with the removal.
    for port in tenant.ask("port", "list", "--active"):
        tenant.run("port", "cancel", port["port_id"])
        tenant.wait_for_end(port["port_id"])
    for name in started:
        lab.guest_remove(name)


@pytest.fixture
def kill(lab: Lab) -> Callable[[str], None]:
    """Kill a process of the lab at once, as a crash does; `lab.up()` starts it again."""

    def kill_process(name: str) -> None:
        os.kill(lab.process(name).pid, signal.SIGKILL)

    return kill_process


@pytest.fixture
def edit_policy(lab: Lab) -> Iterator[Callable[[str, str, str], None]]:
    """Replace a text in a provider's policy file, as its operator would; undone after the test."""
    before: dict[Path, str] = {}

    def edit(provider: str, old: str, new: str) -> None:
        path = services.policy_file(lab.plan, provider)
        text = path.read_text()
        assert old in text, f"{old!r} is not in {text}"
        before.setdefault(path, text)
        path.write_text(text.replace(old, new, 1))

    yield edit
    for path, text in before.items():
        path.write_text(text)
