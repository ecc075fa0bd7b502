"""A private Knot name server for tests: own folder, loopback, a port of its own, ended by its process."""

from __future__ import annotations

import base64
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15
ZONE = "vm.example"
KEY_NAME, ALGORITHM = "vmport", "hmac-sha256"
SECRET = base64.b64encode(b"a secret of the tests, 32 bytes.").decode()


def free_port() -> int:
    """A port that is free for TCP and UDP now."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        number: int = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", number))
        return number


class KnotServer:
    """Start, ask, kill, start again. A primary notifies its secondaries; a secondary transfers from its primary."""

    def __init__(self, *, primary: KnotServer | None = None) -> None:
        self.port = free_port()
        self.secondaries: list[KnotServer] = []
        self._primary = primary
        if primary is not None:
            primary.secondaries.append(self)
        self._directory = Path(tempfile.mkdtemp(prefix="vmport-knot-"))
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers for its zone. Secondaries are made before their primary starts."""
        program = shutil.which("knotd") or "/usr/sbin/knotd"
        assert Path(program).exists(), "Knot is not installed; deploy/bootstrap --tests installs it"
        configuration = self._directory / "knot.conf"
        configuration.write_text(self._conf())
        zone = self._directory / f"{ZONE}.zone"
        if self._primary is None and not zone.exists():
            zone.write_text(
                f"$ORIGIN {ZONE}.\n$TTL 5\n@ SOA ns1 hostmaster 1 2 1 604800 5\n@ NS ns1\nns1 A 127.0.0.1\n"
            )
        log = self._directory / "knot.log"
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                [program, "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while self.texts(ZONE, "SOA") == ():
            assert self._server.poll() is None, log.read_text()
            assert time.monotonic() < give_up_at, log.read_text()
            time.sleep(0.05)

    def _conf(self) -> str:
        here = self._directory
        others = [self._primary] if self._primary is not None else self.secondaries
        names = [f"other-{number}" for number in range(len(others))]
        lines = [
            *("server:", f'    rundir: "{here}"', f"    listen: 127.0.0.1@{self.port}"),
            *("    udp-workers: 1", "    tcp-workers: 1", "    background-workers: 1"),
            *("log:", "  - target: stderr", "    any: info"),
            *("database:", f'    storage: "{here}"'),
            *("    journal-db-max-size: 32M", "    timer-db-max-size: 8M", "    kasp-db-max-size: 8M"),
            *("key:", f"  - id: {KEY_NAME}", f"    algorithm: {ALGORITHM}", f"    secret: {SECRET}"),
        ]
        if others:
            lines.append("remote:")
        for name, other in zip(names, others, strict=True):
            lines += [f"  - id: {name}", f"    address: 127.0.0.1@{other.port}", f"    key: {KEY_NAME}"]
        actions = "notify" if self._primary is not None else "[update, transfer]"
        lines += ["acl:", "  - id: holder", f"    key: {KEY_NAME}", f"    action: {actions}"]
        lines += ["zone:", f"  - domain: {ZONE}", f'    storage: "{here}"', f"    file: {ZONE}.zone", "    acl: holder"]
        if self._primary is not None:
            lines.append("    master: other-0")
        else:
            lines += ["    zonefile-sync: -1", "    zonefile-load: difference", "    journal-content: all"]
            lines += [f"    notify: [{', '.join(names)}]"] if names else []
        return "\n".join(lines) + "\n"

    def texts(self, name: str, kind: str) -> tuple[str, ...]:
        """The data of the records that it answers with, sorted; nothing where it does not answer."""
        try:
            answer = dns.query.udp(dns.message.make_query(name, kind), "127.0.0.1", timeout=2, port=self.port)
        except (OSError, dns.exception.DNSException):
            return ()
        return tuple(sorted(data.to_text() for each in answer.answer for data in each))

    def until(self, name: str, kind: str, wanted: tuple[str, ...], *, within_s: float = 20.0) -> None:
        """Wait until it answers so."""
        give_up_at = time.monotonic() + within_s
        while (found := self.texts(name, kind)) != wanted:
            assert time.monotonic() < give_up_at, f"{name} {kind}: {found}"
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(STOP_TIMEOUT_S)
            self._server = None

    def close(self) -> None:
        """End it, and remove its folder."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self._directory)
