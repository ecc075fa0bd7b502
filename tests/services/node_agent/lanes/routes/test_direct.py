"""The listener of direct lanes, and what it tells strangers."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from itertools import pairwise
from uuid import UUID

import pytest

from services.node_agent.lanes.routes import direct, direct_connection
from services.node_agent.lanes.routes.direct import AwaitedWay, ConnectingWay
from services.node_agent.lanes.routes.link import LinkDown
from shared.topology import Lane
from tests.support.two_routes import PORT, listening


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: node.example.org\r\n\r\n",
        direct_connection.Preface(UUID(int=99), Lane.MEMORY, 0, 1, bytes(16)).encode(),
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


async def pauses(monkeypatch: pytest.MonkeyPatch, *, has_route: bool) -> list[float]:
    """How long a way pauses between its first attempts, nobody being there, in all and in seconds."""
    taken: list[float] = []
    attempts: list[float] = []

    async def sleep(seconds: float) -> None:
        taken.append(seconds)

    async def nobody(*_: object, **__: object) -> None:
        attempts.append(sum(taken))
        if len(attempts) == 8:
            raise asyncio.CancelledError
        raise LinkDown("nobody is there")

    monkeypatch.setattr(direct, "connect_direct", nobody)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(random, "random", lambda: 0.0)
    with pytest.raises(asyncio.CancelledError):
        await ConnectingWay(["node:1"], PORT, Lane.MEMORY, retry_s=15.0).connect(lambda: has_route)
    return [later - earlier for earlier, later in pairwise(attempts)]


async def test_a_lane_without_any_route_tries_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the outage lasts: the port goes on as soon as the link is back."""
    assert await pauses(monkeypatch, has_route=False) == [1, 2, 2, 2, 2, 2, 2]


async def test_a_lane_on_the_relay_tries_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """It works already."""
    assert await pauses(monkeypatch, has_route=True) == [1, 2, 4, 8, 15, 15, 15]
