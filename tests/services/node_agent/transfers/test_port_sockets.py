"""A port's run directory: private, fresh, bounded in length, removed."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

from services.node_agent.transfers.port_sockets import Connections, PortSockets, SocketError, connect_when_there

PORT = uuid4()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Short enough for a socket's path."""
    with TemporaryDirectory(prefix="vmport-") as folder:
        yield Path(folder)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes."""
    writer.write(await reader.read(100))
    writer.close()


async def test_the_directory_is_private_and_fresh(run_dir: Path) -> None:
    """What a dead attempt left in it is gone."""
    sockets = PortSockets(run_dir, PORT)
    sockets.directory.mkdir()
    (sockets.directory / "stale").touch()
    sockets.make_directory()
    assert list(sockets.directory.iterdir()) == []
    assert stat.S_IMODE(sockets.directory.stat().st_mode) == 0o700


async def test_a_socket_listens_and_goes(run_dir: Path) -> None:
    """Only the owner may connect; `remove` leaves nothing."""
    sockets = PortSockets(run_dir, PORT)
    sockets.make_directory()
    await sockets.listen(sockets.memory, echo)
    assert stat.S_IMODE(sockets.memory.stat().st_mode) == 0o600
    reader, writer = await connect_when_there(sockets.memory, within_s=5)
    writer.write(b"hello")
    assert await reader.read(100) == b"hello"
    writer.close()
    sockets.remove()
    assert not sockets.directory.exists()


def test_uris_name_the_sockets_as_the_hypervisor_sees_them(run_dir: Path) -> None:
    """With another view of the run directory, the URIs have that one."""
    sockets = PortSockets(run_dir, PORT, seen_as=Path("/run/vmport"))
    assert sockets.driver_uri == f"qemu+unix:///system?socket=/run/vmport/{PORT}/driver.sock"
    assert sockets.memory_uri == f"unix:///run/vmport/{PORT}/mem.sock"
    assert sockets.disk_uri == f"unix:///run/vmport/{PORT}/nbd.sock"


def test_a_path_that_no_socket_can_have_is_refused(run_dir: Path) -> None:
    """Before anything is made."""
    sockets = PortSockets(run_dir / ("x" * 80), PORT)
    with pytest.raises(SocketError, match="107"):
        sockets.make_directory()
    assert not sockets.directory.exists()


def test_an_unknown_owner_is_an_error(run_dir: Path) -> None:
    """QEMU's user must exist."""
    with pytest.raises(SocketError):
        PortSockets(run_dir, PORT, owner="nobody-of-this-name").make_directory()


async def test_a_socket_that_never_comes_is_an_error(run_dir: Path) -> None:
    """The wait is bounded."""
    with pytest.raises(SocketError, match="0 s"):
        await connect_when_there(run_dir / "no.sock", within_s=0.05)


async def test_connections_are_waited_for_and_then_ended(run_dir: Path) -> None:
    """One that ends by itself is waited for; one that does not is cancelled."""
    connections = Connections()
    ended: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with connections.track(writer):
                await reader.read()
            ended.append("by itself")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    sockets = PortSockets(run_dir, PORT)
    sockets.make_directory()
    await sockets.listen(sockets.memory, serve)
    _, first = await connect_when_there(sockets.memory, within_s=5)
    _, second = await connect_when_there(sockets.memory, within_s=5)
    await asyncio.sleep(0)
    first.close()
    await connections.drain(0.1)
    await connections.drain(5.0)
    assert sorted(ended) == ["by itself", "cancelled"]
    second.close()
    sockets.remove()
