"""The choice of the route, and its change under a running lane."""

from __future__ import annotations

import asyncio

from services.node_agent.lanes.routes.caps import Caps
from services.node_agent.lanes.routes.direct import AwaitedWay
from services.node_agent.lanes.routes.routed_link import RoutedLink
from services.node_agent.metrics import Direction, Route
from shared.topology import Lane
from tests.support.lane_credentials import Pair
from tests.support.two_routes import BLOCK, PORT, two_routes, wait_for_route


async def test_direct_is_tried_first(credentials: Pair) -> None:
    """Where there is a direct way, nothing but it is used, relay or no relay."""
    async with two_routes(credentials) as lane, asyncio.TaskGroup() as group:
        lane.relay.cut()
        lane.start(group)
        await lane.send_and_check(50)
        await lane.close()
    assert {route for route, _ in lane.counts} == {Route.DIRECT}


async def test_no_way_falls_back_within_a_second(credentials: Pair) -> None:
    """With nobody reachable, a lane is ready over the relay soon after the second that direct is given."""
    async with two_routes(credentials) as lane, asyncio.TaskGroup() as group:
        lane.proxy.refusing = True
        began_s = asyncio.get_running_loop().time()
        lane.start(group)
        await asyncio.gather(*(session.wait_ready() for session in lane.sessions))
        assert asyncio.get_running_loop().time() - began_s < 1.8
        await lane.send_and_check(20)
        await lane.close()
    assert {route for route, _ in lane.counts} == {Route.RELAY}


async def test_no_direct_way_is_waited_for_when_the_other_end_sends_by_the_relay(credentials: Pair) -> None:
    """It has none, or waited long enough."""
    async with two_routes(credentials) as lane:
        way = AwaitedWay(lane.listener, PORT, Lane.MEMORY)
        link = RoutedLink(
            lane.relay.b, way, cap=Caps().lane(PORT, "beta", None, bulk=False), count=lane.count, direct_within_s=50
        )
        await lane.relay.a.send(b"frame")
        await link.wait_up()
        assert link.route is Route.RELAY
        assert await link.receive() == b"frame"
        await link.close()


async def test_the_route_changes_under_a_running_lane(credentials: Pair) -> None:
    """Relay, direct when it comes about, relay when it breaks, direct again: every byte arrives once, in order."""
    async with two_routes(credentials) as lane, asyncio.TaskGroup() as group:
        lane.proxy.refusing = True
        lane.start(group)
        await wait_for_route(lane, Route.RELAY)
        await lane.send_and_check(30)
        lane.proxy.refusing = False
        await wait_for_route(lane, Route.DIRECT)

        def cut() -> None:
            lane.proxy.refusing = True
            lane.proxy.cut()

        def mend() -> None:
            lane.proxy.refusing = False

        await lane.send_and_check(600, meanwhile={50: cut, 150: mend})
        await wait_for_route(lane, Route.DIRECT)
        await lane.send_and_check(30, meanwhile={10: lane.relay.cut})
        await lane.close()
    assert all(lane.counts[route, Direction.OUTBOUND] > 10 * len(BLOCK) for route in Route)
