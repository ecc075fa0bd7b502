"""A group of TCP connections carries one lane: order, loss, and a dead route."""

from __future__ import annotations

import asyncio
import os

import pytest

from services.node_agent.lanes.routes import direct_connection
from services.node_agent.lanes.routes.direct_connection import DirectConnection
from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.metrics import Route
from tests.support.lane_credentials import Pair
from tests.support.two_routes import connected, two_routes, wait_for_route


@pytest.mark.parametrize("connections", [1, 4])
async def test_frames_arrive_in_order(connections: int) -> None:
    """However many connections carry them, frames of all sizes come out in the order in which they were sent."""
    frames = [os.urandom(size) for size in (1, 56, 300_000, 17, 70_000) * 12]
    async with connected(connections) as ends:
        for sender, receiver in (ends, ends[::-1]):

            async def send(by: DirectConnection = sender) -> None:
                for frame in frames:
                    await by.send(frame)

            sending = asyncio.ensure_future(send())
            assert [await receiver.receive() for _ in frames] == frames
            await sending


async def test_one_lost_connection_loses_the_group() -> None:
    """Both ends notice, whoever waits hears it, and nothing hangs."""
    async with connected(3) as (near, far):
        near._pipes[1].abort()
        with pytest.raises(LinkDown):
            await far.receive()
        await far.lost.wait()
        with pytest.raises(LinkDown):
            await near.receive()
        with pytest.raises(LinkDown):
            await near.send(b"x")


async def test_a_dead_direct_route_is_noticed(credentials: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that swallows everything without a word is left for the relay."""
    monkeypatch.setattr(direct_connection, "SILENCE_S", 0.6)
    monkeypatch.setattr(direct_connection, "SIGN_OF_LIFE_S", 0.1)
    async with two_routes(credentials) as lane, asyncio.TaskGroup() as group:
        lane.start(group)
        await wait_for_route(lane, Route.DIRECT)

        def die() -> None:
            lane.proxy.refusing = True
            lane.proxy.stall()

        await lane.send_and_check(60, meanwhile={20: die})
        assert {link.route for link in lane.links} == {Route.RELAY}
        await lane.close()
