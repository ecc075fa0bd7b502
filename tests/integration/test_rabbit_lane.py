"""Lanes in RabbitMQ: the broker creates and removes them, two nodes exchange frames, also after RabbitMQ was killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from uuid import uuid4

import pytest
import structlog
from prometheus_client import CollectorRegistry

from shared.bus import BusDown, LaneEnds
from shared.metrics import BusMetrics, Metrics
from shared.parties import BROKER, Party, node
from shared.rabbit.lanes import RabbitLaneAdmin, RabbitLaneLink, RabbitLanes
from shared.topology import PORT_LANES, Lane
from tests.support.rabbitmq_node import RabbitNode

pytestmark = pytest.mark.servers

ALPHA, BETA = node("alpha", "alpha-1"), node("beta", "beta-1")
WAIT_S = 30.0


class Away(Exception):
    """Stands for the lanes' LinkDown."""


class Relay:
    """A port's lanes and both nodes' access to them."""

    def __init__(self, rabbitmq: RabbitNode) -> None:
        self.ends = LaneEnds(uuid4(), ALPHA, BETA)
        self.admin = RabbitLaneAdmin(rabbitmq.settings(BROKER), Metrics(service="t", version="0").bus)
        self.alpha, self.beta = (
            RabbitLanes(rabbitmq.settings(party), Metrics(service="t", version="0").bus, link_down=Away)
            for party in (ALPHA, BETA)
        )

    def pair(self, lane: Lane) -> tuple[RabbitLaneLink[Away], RabbitLaneLink[Away]]:
        port = self.ends.port_id
        return self.alpha.link(port, lane, BETA), self.beta.link(port, lane, ALPHA)

    async def close(self) -> None:
        for part in (self.alpha, self.beta, self.admin):
            await part.close()


@pytest.fixture
async def relay(rabbitmq: RabbitNode) -> AsyncIterator[Relay]:
    relay = Relay(rabbitmq)
    await relay.admin.open_lanes(relay.ends)
    yield relay
    await relay.admin.close_lanes(relay.ends)
    await relay.close()


async def soon(work: Awaitable[object]) -> object:
    async with asyncio.timeout(WAIT_S):
        return await work


async def test_frames_go_both_ways_in_order(relay: Relay) -> None:
    """What one node sends, the other receives, on each lane separately."""
    for lane in PORT_LANES:
        ours, theirs = relay.pair(lane)
        await soon(asyncio.gather(ours.wait_up(), theirs.wait_up()))
        for number in range(50):
            await soon(ours.send(b"%d" % number))
            await soon(theirs.send(b"back %d" % number))
        assert [await soon(theirs.receive()) for _ in range(50)] == [b"%d" % number for number in range(50)]
        assert [await soon(ours.receive()) for _ in range(50)] == [b"back %d" % number for number in range(50)]
        await ours.close()
        await theirs.close()


async def test_an_extensions_lane_outlives_the_ports(relay: Relay) -> None:
    """It is made and removed by itself, and its frames go on when the port's lanes are gone."""
    ours, theirs = relay.pair(Lane.EXTENSION)
    for _ in range(2):
        await relay.admin.open_extension(relay.ends)
    await soon(asyncio.gather(ours.wait_up(), theirs.wait_up()))
    await relay.admin.close_lanes(relay.ends)
    await soon(ours.send(b"frame"))
    await soon(theirs.send(b"back"))
    assert (await soon(theirs.receive()), await soon(ours.receive())) == (b"frame", b"back")
    for _ in range(2):
        await relay.admin.close_extension(relay.ends)
    with pytest.raises(Away):
        await soon(theirs.receive())
    await ours.close()
    await theirs.close()


async def test_opening_and_closing_lanes_are_idempotent(relay: Relay) -> None:
    """Creating and removing may be repeated, as a restarted broker does."""
    await relay.admin.open_lanes(relay.ends)
    await relay.admin.close_lanes(relay.ends)
    await relay.admin.close_lanes(relay.ends)


async def test_lane_before_its_making_is_waited_for(relay: Relay) -> None:
    """A node that is faster than the broker attaches as soon as the lane exists."""
    ours, _ = relay.pair(Lane.DISK)
    await relay.admin.close_lanes(relay.ends)
    with pytest.raises(Away, match="not attached"):
        await ours.receive()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await ours.wait_up()
    await relay.admin.open_lanes(relay.ends)
    await soon(ours.wait_up())
    await ours.close()


async def test_removed_lane_is_noticed_while_receiving(relay: Relay) -> None:
    """A node that waits for a frame is told that its lane was removed."""
    ours, theirs = relay.pair(Lane.MEMORY)
    await soon(asyncio.gather(ours.wait_up(), theirs.wait_up()))
    waiting = asyncio.gather(ours.receive(), theirs.receive(), return_exceptions=True)
    await relay.admin.close_lanes(relay.ends)
    results = await soon(waiting)
    assert isinstance(results, list)
    assert [type(result) for result in results] == [Away, Away]
    await ours.close()
    await theirs.close()


async def test_lane_comes_back_after_a_killed_node(rabbitmq: RabbitNode, relay: Relay) -> None:
    """A killed RabbitMQ is a link that is down; the link comes up again by itself, and frames flow."""
    ours, theirs = relay.pair(Lane.MEMORY)
    await soon(asyncio.gather(ours.wait_up(), theirs.wait_up()))
    waiting = asyncio.ensure_future(theirs.receive())
    await asyncio.to_thread(rabbitmq.kill)
    try:
        with pytest.raises(Away):
            await soon(waiting)
        with pytest.raises(Away):
            await soon(_send_until_refused(ours))
        with pytest.raises(BusDown):
            async with asyncio.timeout(20):
                await relay.admin.open_lanes(relay.ends)
    finally:
        await asyncio.to_thread(rabbitmq.start)
    await soon(asyncio.gather(ours.wait_up(), theirs.wait_up()))
    await ours.send(b"again")
    assert await soon(theirs.receive()) == b"again"
    await ours.close()
    await theirs.close()


async def _send_until_refused(link: RabbitLaneLink[Away]) -> None:
    """Frames are accepted until the lost connection is noticed, which may take more than one frame."""
    while True:
        await link.send(b"into the void")
        await asyncio.sleep(0)


async def test_zombie_cannot_take_a_lane_over(relay: Relay) -> None:
    """A second reader of a lane's queue is refused while the first lives."""
    first, _ = relay.pair(Lane.DISK)
    second, _ = relay.pair(Lane.DISK)
    await soon(first.wait_up())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await second.wait_up()
    await first.close()
    await soon(second.wait_up())
    await second.close()


async def test_sender_of_a_closed_link_hears_it(relay: Relay) -> None:
    """After close both calls raise."""
    ours, _ = relay.pair(Lane.CONTROL)
    await soon(ours.wait_up())
    await ours.close()
    with pytest.raises(Away, match="closed"):
        await ours.send(b"x")
    with pytest.raises(Away, match="closed"):
        await ours.wait_up()


@dataclass
class _Node:
    """One node's connections, and what they count."""

    lanes: RabbitLanes[Away]
    registry: CollectorRegistry

    def reconnects(self) -> float:
        """All connections together."""
        (family,) = (family for family in self.registry.collect() if family.name == "vmport_bus_reconnects")
        return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


def _node(rabbitmq: RabbitNode, me: Party) -> _Node:
    registry = CollectorRegistry()
    settings = rabbitmq.settings(me, reconnect_min_s=0.01, reconnect_max_s=0.02)
    return _Node(RabbitLanes(settings, BusMetrics(registry), link_down=Away), registry)


async def _use(link: RabbitLaneLink[Away]) -> None:
    """Send without end, and attach again whenever the lane is missing, as a lane's session does."""
    while True:
        try:
            while True:
                await link.send(b"frame" * 200)
        except Away:
            await link.wait_up()


async def _one_port(alpha: _Node, beta: _Node, admin: RabbitLaneAdmin) -> None:
    """The order of a normal end: the broker removes the lanes, which both nodes still use; then the nodes detach."""
    ends = LaneEnds(uuid4(), ALPHA, BETA)
    await admin.open_lanes(ends)
    links = [
        node.lanes.link(ends.port_id, lane, peer, sends_bulk=False, receives_bulk=False)
        for lane in PORT_LANES
        for node, peer in ((alpha, BETA), (beta, ALPHA))
    ]
    await asyncio.gather(*(link.wait_up() for link in links))
    users = [asyncio.ensure_future(_use(link)) for link in links]
    await asyncio.sleep(0.1)
    await admin.close_lanes(ends)
    await asyncio.sleep(0.3)
    for user in users:
        user.cancel()
    await asyncio.gather(*users, return_exceptions=True)
    for link in links:
        await link.close()


async def test_ports_end_without_a_protocol_error(rabbitmq: RabbitNode) -> None:
    """RabbitMQ closes the channels of lanes that are removed while they are used, and no connection is lost by it."""
    alpha, beta = _node(rabbitmq, ALPHA), _node(rabbitmq, BETA)
    admin = RabbitLaneAdmin(rabbitmq.settings(BROKER), BusMetrics(CollectorRegistry()))
    with structlog.testing.capture_logs() as logged:
        for _ in range(12):
            async with asyncio.timeout(WAIT_S):
                await _one_port(alpha, beta, admin)
        assert [alpha.reconnects(), beta.reconnects()] == [0, 0]
    assert [line for line in logged if line["log_level"] in {"warning", "error"}] == []
    for part in (alpha.lanes, beta.lanes, admin):
        await part.close()
