"""A private PostgreSQL cluster for tests: own directory, unix socket only, an unprivileged user, ended by pid."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15
USERS = ("postgres", "nobody")


def newest_binaries() -> Path:
    """Debian's own place for PostgreSQL's programs, newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    assert found, "PostgreSQL is not installed; deploy/bootstrap installs it"
    return found[-1].parent


class PostgresServer:
    """Start, give databases, close. ``durable``: commits wait for the disk, as in service; tests need not."""

    def __init__(self, *, durable: bool = False) -> None:
        self._options = [] if durable else ["-F"]
        self._binaries = newest_binaries()
        self._directory = Path(tempfile.mkdtemp(prefix="vmport-postgres-"))
        self._server: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        # The server refuses to run as root.
        user = next((pwd.getpwnam(name) for name in USERS if os.geteuid() == 0), None)
        self._uid = user.pw_uid if user is not None else None
        self._gid = user.pw_gid if user is not None else None

    def start(self) -> None:
        """Make the cluster, if it was not started before, and wait until it answers."""
        if self._uid is not None and self._gid is not None:
            os.chown(self._directory, self._uid, self._gid)
        data = str(self._directory / "data")
        if not Path(data).exists():
            self._run("initdb", "-D", data, "-U", "vmport", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        output = self._directory / "output.log"
        with output.open("ab") as log:
            self._server = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", data, "-k", str(self._directory), "-h", "", *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                start_new_session=True,
                user=self._uid,
                group=self._gid,
            )
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._psql("SELECT 1").returncode == 0:
                return
            assert time.monotonic() < give_up_at, output.read_text()
            assert self._server.poll() is None, output.read_text()
            time.sleep(0.05)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test{next(self._numbers)}"
        done = self._psql(f"CREATE DATABASE {name}")
        assert done.returncode == 0, done.stderr
        return f"postgresql://vmport@/{name}?host={self._directory}"

    def pids(self) -> list[int]:
        """The server's processes now."""
        assert self._server is not None
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text().split()
        return [self._server.pid, *map(int, children)]

    def stop(self) -> None:
        """Stop at once, as by a crash of the server; `start` goes on with the same data."""
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # PostgreSQL's immediate shutdown
            server.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        """Stop and remove everything; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            try:
                server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self._directory,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            check=False,
            user=self._uid,
            group=self._gid,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _psql(self, statement: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(self._binaries / "psql"),
                "-X",
                "-h",
                str(self._directory),
                "-U",
                "vmport",
                "-c",
                statement,
                "postgres",
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
