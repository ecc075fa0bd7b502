"""A private RabbitMQ node for tests: own loopback ports, directory, cookie and epmd, and vmport's own definitions.

It runs the sample configuration that operators are given. Started in the foreground, ended by pid.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pika
import pika.exceptions
from pydantic import SecretStr

from shared.config import BusSettings
from shared.parties import Party
from shared.topology import Credential, definitions, password_hash

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = Path("/usr/lib/rabbitmq/lib")
VHOST = "vmport"
ADMIN = "tests-admin"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
SETTLE_S = 5.0
"""RabbitMQ 3.10 loses a quorum queue for good when it is killed within about a second of the queue's declaration."""


def free_port() -> int:
    """A loopback port that nobody uses now.

    Below the range from which the kernel takes the ports of outgoing connections: one of those can hold the port at the
    moment when the server wants to listen, even a connection attempt to that very port.
    """
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = lowest_outgoing - 1 - secrets.randbelow(10_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no loopback port is free")


class RabbitNode:
    """One node; `start` and `kill` as often as wanted, `close` at the end."""

    def __init__(self, directory: Path, parties: Iterable[Party], *, memory: str = "400MB") -> None:
        """``memory``: from when on the node blocks who publishes."""
        self._directory = directory
        self._memory = memory
        self.port, self._dist_port, self._epmd_port = free_port(), free_port(), free_port()
        self._passwords = {party: secrets.token_hex(12) for party in parties}
        self._admin_password = secrets.token_hex(12)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._fresh = True
        self._settled_at = 0.0
        self._write_files()

    @property
    def parties(self) -> tuple[Party, ...]:
        """Who is set up on the node."""
        return tuple(self._passwords)

    def settings(self, party: Party, *, port: int | None = None, **more: object) -> BusSettings:
        """A party's ``[bus]`` section, quick to reconnect; ``port`` for a way round."""
        url = f"amqp://{party}:{self._passwords[party]}@127.0.0.1:{port or self.port}/{VHOST}"
        values: dict[str, object] = {"url": SecretStr(url), "reconnect_max_s": 1.0, "heartbeat_s": 5, **more}
        return BusSettings.model_validate(values)

    def password(self, party: Party) -> str:
        """A party's password."""
        return self._passwords[party]

    def start(self) -> None:
        """Start the node and wait until it serves; raises AssertionError with its log when it does not."""
        if self._epmd is None:
            self._epmd = self._spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"])
        self._server = self._spawn([_program("rabbitmq-server")])
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._serves():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"RabbitMQ does not start:\n{self._log_tail()}")
            time.sleep(0.1)
        self._settled_at = max(self._settled_at, time.monotonic() + SETTLE_S if self._fresh else 0.0)
        self._fresh = False

    def kill(self) -> None:
        """End the node as a power cut would: SIGKILL; not before its quorum queues have settled on disk."""
        time.sleep(max(0.0, self._settled_at - time.monotonic()))
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the node in order."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """End everything and remove the directory."""
        self.stop()
        if self._epmd is not None:
            self._epmd.terminate()
            self._epmd.wait(STOP_TIMEOUT_S)
            self._epmd = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def connect(self, party: Party | None = None) -> pika.BlockingConnection:
        """A connection of a client library that is not ours; None is the administrator."""
        name, password = (str(party), self._passwords[party]) if party else (ADMIN, self._admin_password)
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                host="127.0.0.1",
                port=self.port,
                virtual_host=VHOST,
                credentials=pika.PlainCredentials(name, password),
                socket_timeout=5,
                blocked_connection_timeout=5,
            )
        )

    def ctl(self, *arguments: str) -> str:
        """What rabbitmqctl prints."""
        done = subprocess.run(
            [_program("rabbitmqctl"), "-q", *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def import_definitions(self) -> None:
        """Make again what is missing of the definitions."""
        self.ctl("import_definitions", str(self._directory / "definitions.json"))
        self._settled_at = time.monotonic() + SETTLE_S

    def memory_bytes(self) -> int:
        """Resident memory of the node's Erlang machine."""
        found = 0
        for pid in self.pids():
            try:
                text = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if text.startswith("Name:\tbeam"):
                found += int(text.partition("VmRSS:")[2].split()[0]) * 1024
        return found

    def pids(self) -> list[int]:
        """The node's processes."""
        assert self._server is not None
        group = os.getpgid(self._server.pid)
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(entry.name)) == group:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
        return found

    def _end(self, number: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        # The program is a shell script with the Erlang machine below it; the group is ours, made in _spawn.
        try:
            os.killpg(server.pid, number)
            server.wait(STOP_TIMEOUT_S)
        except ProcessLookupError:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(STOP_TIMEOUT_S)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._directory / "output.log").open("ab") as output:
            return subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._directory,
                start_new_session=True,
            )

    def _serves(self) -> bool:
        """Whether the definitions are in force: the last queue of them can be reached."""
        last = str(max(self._passwords, key=str))
        try:
            connection = self.connect()
        except (pika.exceptions.AMQPError, OSError):
            return False
        try:
            connection.channel().queue_declare(f"vmport.inbox.{last}", passive=True)
        except pika.exceptions.AMQPError:
            return False
        finally:
            if connection.is_open:
                connection.close()
        return True

    def _log_tail(self) -> str:
        return (self._directory / "output.log").read_text(errors="replace")[-3000:]

    def _write_files(self) -> None:
        home = self._directory
        home.mkdir(parents=True, exist_ok=True)
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        document = definitions(
            {party: Credential(password, secrets.token_bytes(4)) for party, password in self._passwords.items()},
            vhost=VHOST,
        )
        document["users"].append(
            {
                "name": ADMIN,
                "password_hash": password_hash(Credential(self._admin_password, secrets.token_bytes(4))),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["administrator"],
                "limits": {},
            }
        )
        document["permissions"].append({"user": ADMIN, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"})
        (home / "definitions.json").write_text(json.dumps(document))
        sample = (REPOSITORY / "deploy/rabbitmq/20-vmport.conf").read_text()
        (home / "rabbitmq.conf").write_text(
            f"{sample}\nlisteners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = false\n"
            f"vm_memory_high_watermark.absolute = {self._memory}\nload_definitions = {home / 'definitions.json'}\n"
        )
        (home / "advanced.config").write_text("[].\n")
        (home / "enabled_plugins").write_text("[].\n")
        (home / "env.conf").write_text("")

    def _environment(self) -> dict[str, str]:
        home = self._directory
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_", "VMPORT_"))
        }
        return inherited | {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": str(home / "env.conf"),
            "RABBITMQ_NODENAME": f"vmport-tests-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "node.pid"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(home / "feature_flags"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }


def _program(name: str) -> str:
    """The package's own program; the one on PATH changes user."""
    found = sorted(PACKAGES.glob(f"rabbitmq_server-*/sbin/{name}"))
    assert found, "rabbitmq-server is not installed: run deploy/bootstrap"
    return str(found[-1])
