"""A driver connection without libvirtd: this end of a socket, and both ends of the lane that it is joined with."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.testing import MemoryRoute, PlainSeal
from shared.page_stream.bodies import LaneRole, StreamKind


@dataclass(frozen=True, slots=True)
class DriverConnection:
    """`reader` and `writer` are the agent's; `libvirtd` is the other end of the socket, `far` that of the lane."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    libvirtd: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    near: LaneStream
    far: LaneStream


@asynccontextmanager
async def driver_connection() -> AsyncIterator[DriverConnection]:
    """Open until the block ends."""
    route = MemoryRoute()
    near, far = (
        LaneSession(link, LaneSettings(lane="p.control", role=role), seal=PlainSeal())
        for link, role in ((route.a, LaneRole.INITIATOR), (route.b, LaneRole.ACCEPTOR))
    )
    loop = asyncio.get_running_loop()
    running = [loop.create_task(session.run()) for session in (near, far)]
    inside, outside = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=inside)
    libvirtd = await asyncio.open_unix_connection(sock=outside)
    try:
        async with asyncio.timeout(20):
            stream = near.open_stream(StreamKind.CONTROL, "driver")
            yield DriverConnection(reader, writer, libvirtd, stream, await far.accept())
    finally:
        for each in (writer, libvirtd[1]):
            each.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
