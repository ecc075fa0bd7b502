"""The recipient's driver connection: only what the gate lets pass reaches libvirtd; refusals and ends are reported."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from services.node_agent.lanes.core.errors import StreamError
from services.node_agent.libvirt_rpc.gate import PrepareAnswered, RpcGate
from services.node_agent.libvirt_rpc.gate_terms import Expected, GateRefusal
from services.node_agent.libvirt_rpc.messages import REMOTE_PROGRAM, Frame, FrameParser, FrameType, Status
from services.node_agent.transfers.gate_proxy import GateProxy
from shared.messages.porting import SwitchoverDenied
from tests.support.driver_connection import DriverConnection, driver_connection

VM = UUID("11111111-2222-3333-4444-555555555501")
EXPECTED = Expected(
    vm_uuid=VM, vm_name="web", domain_xml="<domain/>", disks={}, memory_uri="unix:///m", disks_uri="unix:///d"
)
NOT_ALLOWED = Frame(REMOTE_PROGRAM, 999, FrameType.CALL, 1, Status.OK, b"").to_bytes()


class Owner:
    """Whoever decides for the gate; notes how Finish ended."""

    def __init__(self) -> None:
        self.answers: list[str | None] = []

    async def ask_switchover(self) -> SwitchoverDenied | None:
        """Granted."""
        return None

    def finish_answered(self, error: str | None, *, hung_up: bool = False) -> None:
        """libvirtd's answer, or the end of its connection, which is none."""
        assert hung_up is (error == "this host's libvirtd ended the connection")
        self.answers.append(error)


def proxied(connection: DriverConnection) -> tuple[GateProxy, asyncio.Task[None], Owner]:
    """The proxy, running."""
    owner = Owner()
    proxy = GateProxy(connection.reader, connection.writer, connection.near, RpcGate(EXPECTED), owner)
    return proxy, asyncio.get_running_loop().create_task(proxy.run()), owner


async def test_an_end_of_the_donor_ends_the_connection() -> None:
    """Before Finish nothing is decided; libvirtd sees its connection close."""
    async with driver_connection() as connection:
        proxy, running, owner = proxied(connection)
        connection.far.write_eof()
        await running
        assert not proxy.finish_in_flight
        assert owner.answers == []
        assert await connection.libvirtd[0].read() == b""
        assert await connection.far.read() == b""


async def test_prepared_devices_are_told_once_they_are_there() -> None:
    """A guest that libvirtd refuses has none."""
    told = list[str]()
    async with driver_connection() as connection:
        proxy = GateProxy(
            connection.reader,
            connection.writer,
            connection.near,
            RpcGate(EXPECTED),
            Owner(),
            prepared=lambda: told.append("there"),
        )
        await proxy._perform([PrepareAnswered("no room")], None)
        assert told == []
        await proxy._perform([PrepareAnswered(None)], None)
    assert told == ["there"]


async def test_a_call_that_is_not_allowed_is_refused() -> None:
    """libvirtd never sees it; the donor gets an error reply."""
    async with driver_connection() as connection:
        _, running, _ = proxied(connection)
        await connection.far.write(NOT_ALLOWED)
        with pytest.raises(GateRefusal):
            await running
        assert await connection.libvirtd[0].read() == b""
        assert FrameParser().receive_data(await connection.far.read())


async def test_a_stopped_transfer_resets_the_donors_stream() -> None:
    """The reset says who stopped it."""
    async with driver_connection() as connection:
        _, running, _ = proxied(connection)
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(StreamError, match="stopped the transfer"):
            await connection.far.read()
