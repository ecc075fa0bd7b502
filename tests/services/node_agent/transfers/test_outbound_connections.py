"""The donor's three sockets: each connection goes into its lane; one that fails is trouble until Finish is out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.page_stream.bodies import StreamKind
from shared.topology import Lane
from tests.support.lane_traffic import hot_stream

if TYPE_CHECKING:
    from services.node_agent.transfers.outbound_connections import OutboundConnections
    from tests.support.transfer_pair import Pair


MAIN = b"no migration stream, and passed on"


@pytest.fixture
async def connections(pair: Pair) -> AsyncIterator[OutboundConnections]:
    """Those of the pair's donor, listening."""
    pair.sockets_a.make_directory()
    made = pair.outbound._connections
    await made.listen(pair.sockets_a)
    yield made
    made.close()
    pair.sockets_a.remove()


async def send(path: Path, data: bytes) -> asyncio.StreamWriter:
    """Connect as QEMU or libvirt does, and send."""
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    return writer


async def test_each_socket_has_its_lane(pair: Pair, connections: OutboundConnections) -> None:
    """QEMU's first memory connection is the bulk; the second carries what a guest waits for in post-copy."""
    async with asyncio.timeout(20):
        writers = [
            await send(pair.sockets_a.driver, b""),
            await send(pair.sockets_a.disk, b"\0"),
            await send(pair.sockets_a.memory, hot_stream(1)),
        ]
        assert (await pair.lanes_b.control.accept()).label == "driver"
        assert (await pair.lanes_b.disk.accept()).kind is StreamKind.DISK
        assert (await pair.lanes_b.memory.accept()).kind is StreamKind.MEMORY
        writers.append(await send(pair.sockets_a.memory, b"\0"))
        assert (await pair.lanes_b.urgent.accept()).kind is StreamKind.MEMORY
    connections.close()
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("passed", [False, True])
async def test_a_stream_that_fails_is_trouble_until_finish_is_out(
    pair: Pair, connections: OutboundConnections, *, passed: bool
) -> None:
    """After that the guard decides, not a connection."""
    async with asyncio.timeout(20):
        writer = await send(pair.sockets_a.disk, b"\0")
        stream = await pair.lanes_b.disk.accept()
        pair.outbound._guard.passed = passed
        stream.reset("no room")
        await connections.drain(5.0)
    assert (pair.outbound._trouble is None) is passed
    if not passed:
        assert pair.outbound._trouble is not None
        assert pair.outbound._trouble[0] == "disk_stream"
    writer.close()


async def test_a_second_memory_connection_is_qemus_own_at_the_other_side(
    pair: Pair, connections: OutboundConnections
) -> None:
    """Postcopy-preempt: it comes second there too, nothing of it is changed, and it is answered; whichever lane is
    faster.
    """
    arrived: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    came = asyncio.Condition()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with came:
            arrived.append((reader, writer))
            came.notify_all()

    async def count(wanted: int) -> None:
        async with came:
            await came.wait_for(lambda: len(arrived) == wanted)

    record = b"\x00\x00\x00\x00\x00\x01\x20\x08\x06pc.ram" + bytes(range(256)) * 16
    pair.sockets_b.make_directory()
    async with asyncio.timeout(20):
        serving = asyncio.ensure_future(pair.inbound.run(connections_are_no_arrival))
        pair.routes[Lane.MEMORY].stall(stalled=True)
        main = await send(pair.sockets_a.memory, MAIN)
        reader, urgent = await asyncio.open_unix_connection(pair.sockets_a.memory)
        urgent.write(record)
        server = await asyncio.start_unix_server(accept, pair.sockets_b.memory)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(count(1), 0.3)
        pair.routes[Lane.MEMORY].stall(stalled=False)
        await count(2)
        assert await arrived[0][0].readexactly(len(MAIN)) == MAIN
        assert await arrived[1][0].readexactly(len(record)) == record
        arrived[1][1].write(b"answer")
        assert await reader.readexactly(6) == b"answer"
        assert pair.outbound._trouble is None
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        server.close()
    connections.close()
    for writer in (main, urgent, *(each for _, each in arrived)):
        writer.close()


async def connections_are_no_arrival() -> None:
    """No guest runs in this test."""
    raise AssertionError("the guest runs")


async def test_memory_flows_with_the_first_connection_only(
    pair: Pair, connections: OutboundConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins nothing again."""
    flows: list[bool] = []
    monkeypatch.setattr(connections, "_memory_flows", lambda: flows.append(True))
    async with asyncio.timeout(20):
        writers = [await send(pair.sockets_a.memory, b"\0") for _ in range(2)]
        await pair.lanes_b.urgent.accept()
    assert flows == [True]
    connections.close()
    for writer in writers:
        writer.close()
