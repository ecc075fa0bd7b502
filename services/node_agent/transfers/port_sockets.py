"""A port's run directory and its three unix sockets: made, guarded, removed. Moves no bytes.

At the donor the agent listens on all three; at the recipient QEMU makes memory and disk sockets in the same directory
(libvirt passes the path through from the donor, so both sides use the same one) and the agent connects to them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from services.node_agent.lanes.pump import READER_LIMIT_BYTES
from shared.errors import VmportError

MAX_SOCKET_PATH_BYTES = 107
"""sun_path of Linux, without its NUL."""

SEND_BUFFER_BYTES = 1 << 20
"""As much as the kernel allows, if less: the hypervisor then reads one chunk while the next one is decoded."""

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class SocketError(VmportError):
    """A port's socket cannot be made or reached."""

    code = "socket"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"socket {path}: {reason}")


class PortSockets:
    """`/run/vmport/<port id>/{driver,mem,nbd}.sock` of one host. `owner` is the user that QEMU runs as, if not ours."""

    def __init__(self, run_dir: Path, port_id: UUID, *, owner: str | None = None, seen_as: Path | None = None) -> None:
        """`seen_as` is the run directory as the hypervisor sees it, where it lives in another mount namespace."""
        self._seen = (seen_as or run_dir) / str(port_id)
        self.directory = run_dir / str(port_id)
        self.driver = self.directory / "driver.sock"
        self.memory = self.directory / "mem.sock"
        self.disk = self.directory / "nbd.sock"
        self._owner = owner
        self._servers: list[asyncio.Server] = []

    @property
    def driver_uri(self) -> str:
        """The destination that libvirt is given."""
        return f"qemu+unix:///system?socket={self._seen / self.driver.name}"

    @property
    def memory_uri(self) -> str:
        """Where memory goes."""
        return f"unix://{self._seen / self.memory.name}"

    @property
    def disk_uri(self) -> str:
        """Where disks go."""
        return f"unix://{self._seen / self.disk.name}"

    def make_directory(self) -> None:
        """Make the directory, empty, for root and QEMU's user only. Raises `SocketError`."""
        longest = len(os.fsencode(self.driver))
        if longest > MAX_SOCKET_PATH_BYTES:
            raise SocketError(self.driver, f"the path has {longest} bytes; {MAX_SOCKET_PATH_BYTES} are possible")
        try:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(mode=0o700, parents=True)
            if self._owner is not None:
                shutil.chown(self.directory, self._owner)
        except (OSError, LookupError) as error:
            raise SocketError(self.directory, str(error)) from error

    async def listen(self, path: Path, connected: Connected) -> None:
        """Listen on one of the sockets; `connected` runs per connection and owns it. Raises `SocketError`."""
        try:
            server = await asyncio.start_unix_server(connected, path, limit=READER_LIMIT_BYTES)
            self._guard(path)
        except (OSError, LookupError) as error:
            raise SocketError(path, str(error)) from error
        self._servers.append(server)

    def _guard(self, path: Path) -> None:
        path.chmod(0o600)
        if self._owner is not None:
            shutil.chown(path, self._owner)

    def stop_listening(self) -> None:
        """Take no new connections; those that are there go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    def remove(self) -> None:
        """Remove sockets and directory."""
        self.stop_listening()
        shutil.rmtree(self.directory, ignore_errors=True)


class Closable(Protocol):
    """A connection as far as it ends."""

    def close(self) -> None:
        """End it."""
        ...


class Connections:
    """The connections of one port at one end: known while they are served, so that the end can wait for them."""

    def __init__(self) -> None:
        self._servers: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def track(self, writer: Closable) -> Iterator[None]:
        """Know the connection, and the current task as the one that serves it, inside the block; it is closed after
        it."""
        server = asyncio.current_task()
        assert server is not None, "a connection is served by a task"  # noqa: S101  # asyncio's own guarantee
        self._servers.add(server)
        self._idle.clear()
        try:
            yield
        finally:
            writer.close()
            self._servers.discard(server)
            if not self._servers:
                self._idle.set()

    async def drain(self, within_s: float) -> None:
        """Wait until all have ended by themselves, then end the rest."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            self.close()

    def close(self) -> None:
        """End all of them now: their tasks are cancelled, since a socket must not be closed under its writer."""
        for server in self._servers:
            server.cancel()


async def connect_when_there(
    path: Path, *, within_s: float, retry_s: float = 0.02
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket that another process is about to make. Raises `SocketError` when it does not come in time."""
    problem = "nobody listens"
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    reader, writer = await asyncio.open_unix_connection(path, limit=READER_LIMIT_BYTES)
                except OSError as error:
                    problem = error.strerror or str(error)
                    await asyncio.sleep(retry_s)
                    continue
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                return reader, writer
    except TimeoutError:
        raise SocketError(path, f"{problem}, after {within_s:.0f} s") from None
