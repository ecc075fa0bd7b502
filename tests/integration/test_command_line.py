"""The real command line with the real broker over a real RabbitMQ, as processes: what a tenant's terminal shows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.exit_codes import ExitCode
from shared.messages import Message, seal
from shared.messages.nodes import CapacityReported, InventoryReported, OwnedVm
from shared.messages.vm import VmState, VmSummary
from shared.metrics import Metrics
from shared.parties import BROKER, Party, donor, recipient, tenant
from shared.rabbit.bus import RabbitBus
from tests.support.rabbitmq_node import RabbitNode

pytestmark = pytest.mark.servers

ACME, GLOBEX = tenant("acme"), tenant("globex")
WEB = UUID("aaaa1111-0000-4000-8000-000000000001")
WITHIN_S = 45.0


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def now() -> datetime:
    return datetime.now(UTC)


class Terminal:
    """A tenant's terminal."""

    def __init__(self, node: RabbitNode, party: Party) -> None:
        url = node.settings(party).url.get_secret_value()
        self._environment = {**os.environ, "VMPORT_BUS__URL": url, "COLUMNS": "200", "HOME": "/nonexistent"}
        self._environment.pop("VMPORT_CONFIG", None)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that keeps running; its standard error is in its standard output."""
        # A shell that runs the tests in the background ignores SIGINT, and every child would inherit that.
        return subprocess.Popen(
            ["env", "--default-signal=INT", program("vmport"), *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [program("vmport"), *arguments],
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
        )

    def json(self, *arguments: str) -> Any:
        """A command's answer in JSON, as a program reads it."""
        done = self.run("--format", "json", *arguments)
        assert done.returncode == ExitCode.OK, done.stderr
        return json.loads(done.stdout)

    def until(self, wanted: str, *arguments: str) -> str:
        """Repeat a command until it prints this text; returns its whole output."""
        deadline = time.monotonic() + WITHIN_S
        while wanted not in (said := self.run(*arguments).stdout):
            assert time.monotonic() < deadline, said
        return said


def report(node: RabbitNode, *said: tuple[Party, Message]) -> None:
    """What providers' agents tell the broker."""

    async def publish() -> None:
        for party, message in said:
            bus = RabbitBus(node.settings(party), Metrics(service="t", version="0").bus)
            try:
                await bus.publish(BROKER, seal(message, source=party, message_id=uuid4(), now=now()))
            finally:
                await bus.close()

    asyncio.run(publish())


@pytest.fixture
def acme(rabbitmq: RabbitNode, tmp_path: Path) -> Iterator[Terminal]:
    """A tenant with a running VM at alpha, and a broker that knows it."""
    config = tmp_path / "broker.toml"
    url = rabbitmq.settings(BROKER).url.get_secret_value()
    config.write_text(f'[bus]\nurl = "{url}"\n[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n')
    log = (tmp_path / "broker.log").open("wb")
    broker = subprocess.Popen([program("vmport-broker"), "--config", str(config)], stdout=log, stderr=log)
    try:
        web = VmSummary(
            uuid=WEB, name="web", state=VmState.RUNNING, memory_bytes=2**29, vcpus=1, disk_bytes=2**31, macs=()
        )
        free = CapacityReported(at=now(), nodes_healthy=1, nodes=1, memory_free_bytes=2**34, disk_free_bytes=2**40)
        report(
            rabbitmq,
            (
                donor("alpha"),
                InventoryReported(at=now(), vms=(OwnedVm(vm=web, tenant="acme", node="alpha-1"),)),
            ),
            (recipient("alpha"), free),
            (recipient("beta"), free),
        )
        terminal = Terminal(rabbitmq, ACME)
        terminal.until("web", "vm", "list")
        yield terminal
    finally:
        broker.terminate()
        broker.wait(30)
        log.close()


def test_registry(acme: Terminal, rabbitmq: RabbitNode) -> None:
    """A tenant sees its own VMs and all providers; another tenant sees nothing of it."""
    [web] = acme.json("vm", "list")
    assert (web["uuid"], web["provider"], web["node"], web["epoch"]) == (str(WEB), "alpha", "alpha-1", 1)
    assert acme.run("vm", "where", "aaaa1").stdout.splitlines()[0] == "alpha/alpha-1"
    assert (acme.json("vm", "where", "web")["epoch"], acme.json("vm", "where", "web")["addresses"]) == (1, [])
    acme.until("beta", "provider", "list")
    assert Terminal(rabbitmq, GLOBEX).json("vm", "list") == []
    assert Terminal(rabbitmq, GLOBEX).run("vm", "show", str(WEB)).returncode == ExitCode.NOT_FOUND


def test_port_refused(acme: Terminal) -> None:
    """The broker's rules refuse at once: with code, rule and evidence, and with an exit code."""
    done = acme.run("port", "create", "web", "--to", "nowhere")

    assert done.returncode == ExitCode.NOT_FOUND
    assert "recipient_unknown" in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_port_watched_and_cancelled(acme: Terminal) -> None:
    """A port whose donor never answers is listed, watched, left by Ctrl-C and cancelled."""
    port_id = acme.run("port", "create", "web", "--to", "beta", "--no-wait").stdout.strip()
    assert port_id == str(UUID(port_id))
    assert [port["phase"] for port in acme.json("port", "list", "--active")] == ["approval"]

    watching = acme.start("port", "watch", port_id[:8])
    assert watching.stdout is not None
    lines = [watching.stdout.readline(), watching.stdout.readline()]
    watching.send_signal(signal.SIGINT)
    rest, _ = watching.communicate(timeout=WITHIN_S)
    assert lines == [f"port {port_id}\n", "the donor checks the request\n"]
    assert watching.returncode == ExitCode.INTERRUPTED
    assert f"vmport port cancel {port_id}" in rest
    assert "Traceback" not in rest

    following = acme.start("--format", "json", "port", "watch", port_id)
    assert following.stdout is not None
    following.stdout.readline()
    assert json.loads(following.stdout.readline())["type"] == "PortShown"
    cancelled = acme.run("port", "cancel", port_id[:8], "--reason", "changed my mind")
    assert cancelled.returncode == ExitCode.OK, cancelled.stderr
    rest, _ = following.communicate(timeout=WITHIN_S)
    assert following.returncode == ExitCode.CANCELLED
    assert json.loads(rest.splitlines()[-1])["data"]["outcome"] == "cancelled"
    assert acme.json("port", "show", port_id)["summary"]["phase"] == "cancelled"
    again = acme.run("port", "cancel", port_id)
    assert again.returncode == ExitCode.OK
    assert "already cancelled" in again.stderr


def test_bus_that_is_not_there(rabbitmq: RabbitNode) -> None:
    """A wrong password is reported as such, without a traceback and without the password."""
    url = f"amqp://tenant.acme:wrong-secret@127.0.0.1:{rabbitmq.port}/vmport"
    done = subprocess.run(
        [program("vmport"), "vm", "list", "--url", url],
        env={**os.environ, "VMPORT_BUS__CONNECT_TIMEOUT_S": "2"},
        check=False,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )

    assert done.returncode == ExitCode.BUS_UNREACHABLE
    assert done.stderr.startswith("vmport: RabbitMQ at amqp://tenant.acme@127.0.0.1")
    assert "Traceback" not in done.stderr
    assert "wrong-secret" not in done.stderr
