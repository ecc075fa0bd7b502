"""The listener of direct lanes, and what it tells strangers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

import pytest

from services.node_agent.lanes.routes import direct_connection
from services.node_agent.lanes.routes.direct import AwaitedWay
from shared.topology import Lane
from tests.support.two_routes import PORT, listening


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: node.example.org\r\n\r\n",
        direct_connection.Preface(uuid4(), Lane.MEMORY, 0, 1, bytes(16)).encode(),
        direct_connection.Preface(PORT, Lane.DISK, 0, 1, bytes(16)).encode(),
        direct_connection.Preface(PORT, Lane.MEMORY, 0, 1, bytes(16)).encode()[:3],
    ],
)
async def test_strangers_get_no_answer(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not name a lane that is expected now hears nothing and is hung up on."""
    monkeypatch.setattr("services.node_agent.lanes.routes.direct.PREFACE_WITHIN_S", 0.2)
    async with asyncio.timeout(10), listening() as (listener, port):
        way = AwaitedWay(listener, PORT, Lane.MEMORY)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await way.close()
