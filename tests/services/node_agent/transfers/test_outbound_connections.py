"""The donor's three sockets: each connection goes into its lane; one that fails is trouble until Finish is out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.page_stream.bodies import StreamKind
from tests.support.lane_traffic import hot_stream

if TYPE_CHECKING:
    from services.node_agent.transfers.outbound_connections import OutboundConnections
    from tests.support.transfer_pair import Pair


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
