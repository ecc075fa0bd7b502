"""Traffic for a port's memory lane: a migration stream that rewrites its pages, and a socket that sends it."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING

from shared.topology import Lane
from tests.support.migration_stream import StreamWriter

if TYPE_CHECKING:
    from services.node_agent.lanes.stream import LaneStream
    from services.node_agent.transfers.port_lanes import PortLanes

PAGES = 64


def hot_stream(rounds: int) -> bytes:
    """A migration in which every page is rewritten in every round, cut off before its last section."""
    writer = StreamWriter().header()
    for seed in range(rounds):
        contents = random.Random(seed).randbytes(PAGES * 4096)  # noqa: S311  # the same bytes in every run
        writer.part((b"pc.ram", page, contents[page * 4096 :][:4096]) for page in range(PAGES))
    return bytes(writer.data)


async def pump(lanes: PortLanes, stream: LaneStream, data: bytes, *, hold: int = 10**6) -> None:
    """Join a stream with a socket whose other end sends this and then only reads; so much may wait."""
    inside, outside = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=outside)
    joined = asyncio.ensure_future(lanes.pump(Lane.MEMORY, *await asyncio.open_unix_connection(sock=inside), stream))
    await asyncio.sleep(0)  # the pump begins, and has read nothing yet
    lanes.hold_at_most(Lane.MEMORY, hold)
    writer.write(data)
    writer.write_eof()
    await reader.read()
    await joined
    writer.close()
    await writer.wait_closed()
