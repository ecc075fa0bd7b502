"""Direct lanes on loopback TCP, the change of routes under a running lane, and caps."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.routes import direct_connection
from services.node_agent.lanes.routes.caps import Caps, LaneCap
from services.node_agent.lanes.routes.caps_file import CapsFile
from services.node_agent.lanes.routes.direct import AwaitedWay, ConnectingWay, DirectListener, connect_direct
from services.node_agent.lanes.routes.direct_connection import DirectConnection
from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.lanes.routes.routed_link import DirectWay, RoutedLink
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.metrics import Direction, Route
from shared.page_stream.bodies import LaneRole, StreamKind
from shared.topology import Lane
from tests.support.lane_credentials import Pair
from tests.support.tcp_proxy import TcpProxy

PORT = UUID(int=7)
BLOCK = os.urandom(64 * 1024)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[DirectListener, int]]:
    """A listener on a free port."""
    listener = DirectListener()
    try:
        yield listener, await listener.listen("127.0.0.1:0")
    finally:
        await listener.close()


@asynccontextmanager
async def connected(connections: int) -> AsyncIterator[tuple[DirectConnection, DirectConnection]]:
    """Both ends of a direct connection."""
    async with asyncio.timeout(20), listening() as (listener, port):
        way = AwaitedWay(listener, PORT, Lane.MEMORY)
        near = await connect_direct([f"127.0.0.1:{port}"], PORT, Lane.MEMORY, connections=connections, within_s=1.0)
        far = await way.connect()
        try:
            yield near, far
        finally:
            await near.close()
            await far.close()
            await way.close()


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


async def test_an_announced_giant_ends_the_connection() -> None:
    """A length that no frame has is not waited for."""
    async with connected(1) as (near, far):
        near._pipes[0].write((2**31).to_bytes(4) + bytes(8))
        with pytest.raises(LinkDown, match="announced"):
            await far.receive()


@dataclass
class TwoRoutes:
    """Both ends of a secure lane with a relay in memory and a direct way through a proxy that tests cut."""

    relay: MemoryRoute
    proxy: TcpProxy
    listener: DirectListener
    credentials: Pair
    caps: tuple[Caps, Caps]
    links: list[RoutedLink] = field(default_factory=list)
    sessions: list[LaneSession] = field(default_factory=list)
    counts: Counter[tuple[Route, Direction]] = field(default_factory=Counter)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Both sessions, running."""
        ways: tuple[DirectWay, DirectWay] = (
            ConnectingWay(
                [f"127.0.0.1:{self.proxy.port}"], PORT, Lane.MEMORY, connections=2, within_s=1.0, retry_s=1.0
            ),
            AwaitedWay(self.listener, PORT, Lane.MEMORY),
        )
        for role, relay, way, caps in zip(LaneRole, (self.relay.a, self.relay.b), ways, self.caps, strict=True):
            cap = caps.lane(PORT, "beta", None, bulk=role is LaneRole.INITIATOR)
            link = RoutedLink(relay, way, cap=cap, count=self.count, direct_within_s=1.0, name=role.name)
            settings = LaneSettings(
                lane="p.memory", role=role, window_bytes=1 << 20, max_payload_bytes=1 << 17, hello_retry_s=0.05
            )
            session = LaneSession(link, settings, seal=self.credentials.tls(role).seal())
            self.links.append(link)
            self.sessions.append(session)
            group.create_task(session.run())

    def count(self, route: Route, direction: Direction, size_bytes: int) -> None:
        self.counts[route, direction] += size_bytes

    async def streams(self) -> tuple[LaneStream, LaneStream]:
        """A stream's two ends."""
        out = self.sessions[0].open_stream(StreamKind.MEMORY, "")
        return out, await self.sessions[1].accept()

    async def close(self) -> None:
        """End in order."""
        assert await self.sessions[0].close()
        await self.sessions[1].close()

    async def send_and_check(self, blocks: int, *, meanwhile: dict[int, object] | None = None) -> None:
        """Send blocks and compare digests; at the given blocks call something."""
        out, into = await self.streams()
        sent, got = hashlib.sha256(), hashlib.sha256()

        async def send() -> None:
            for number in range(blocks):
                action = (meanwhile or {}).get(number)
                if callable(action):
                    action()
                block = number.to_bytes(8) + BLOCK
                sent.update(block)
                await out.write(block)
                await asyncio.sleep(0.002)
            out.write_eof()

        sending = asyncio.ensure_future(send())
        while data := await into.read():
            got.update(data)
        await sending
        into.write_eof()
        assert got.digest() == sent.digest()


@asynccontextmanager
async def two_routes(credentials: Pair) -> AsyncIterator[TwoRoutes]:
    """Everything but the sessions."""
    async with asyncio.timeout(60), listening() as (listener, port), TcpProxy(port) as proxy:
        yield TwoRoutes(MemoryRoute(), proxy, listener, credentials, (Caps(), Caps()))


async def wait_for_route(lane: TwoRoutes, route: Route) -> None:
    """Return when both ends send there."""
    async with asyncio.timeout(15):
        while any(link.route is not route for link in lane.links):  # noqa: ASYNC110  # a link tells nobody
            await asyncio.sleep(0.01)


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


async def test_a_cap_holds_and_changes_while_it_runs(credentials: Pair, tmp_path: Path) -> None:
    """Bulk goes at the cap's rate; another figure in the operator's file counts at once."""
    file = tmp_path / "caps.toml"
    async with two_routes(credentials) as lane, asyncio.TaskGroup() as group:
        watched = CapsFile(file, lane.caps[0])
        file.write_text("[peers]\nbeta = 1_000_000\n")
        watched.check()
        lane.start(group)
        await asyncio.gather(*(session.wait_ready() for session in lane.sessions))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await lane.send_and_check(32)
        capped_s = loop.time() - began_s
        assert capped_s == pytest.approx(32 * len(BLOCK) / 1e6, rel=0.25)

        def lift() -> None:
            file.unlink()
            watched.check()

        began_s = loop.time()
        await lane.send_and_check(64, meanwhile={16: lift})
        assert loop.time() - began_s < 0.7 * 64 * len(BLOCK) / 1e6
        await lane.close()


async def test_a_ports_cap_is_the_lower_one() -> None:
    """What the tenant agreed and what the operator says both hold; the pair's cap is shared by its ports."""
    caps = Caps()
    caps.set_rates(peers={}, ports={PORT: 5e6})
    assert rates(caps.lane(PORT, "beta", 2e6, bulk=True)) == [2e6, None]
    caps.set_rates(peers={"beta": 9e6}, ports={PORT: 1e6})
    one, other = caps.lane(PORT, "beta", 2e6, bulk=True), caps.lane(UUID(int=8), "beta", None, bulk=True)
    assert rates(one) == [1e6, 9e6]
    assert rates(other) == [None, 9e6]
    assert one._buckets[1] is other._buckets[1]
    caps.set_rates(peers={}, ports={})
    assert rates(one) == [2e6, None]


def rates(cap: LaneCap) -> list[float | None]:
    """The caps of a lane's port and of its pair."""
    return [bucket.rate_bytes_per_s for bucket in cap._buckets]


async def test_what_is_urgent_waits_for_no_cap() -> None:
    """An ack, or the return path's lane, is charged but not held back behind a debt."""
    caps = Caps()
    bulk = caps.lane(PORT, "beta", 100_000, bulk=True)
    urgent = caps.lane(PORT, "beta", 100_000, bulk=False)
    async with asyncio.timeout(2):
        await bulk.throttle(1_000_000)
        await bulk.throttle(56)
        await urgent.throttle(200_000)


async def test_a_bad_caps_file_changes_nothing(tmp_path: Path) -> None:
    """A slip of the pen neither lifts a cap nor stops the process."""
    file, caps = tmp_path / "caps.toml", Caps()
    watched = CapsFile(file, caps)
    file.write_text("[peers]\nbeta = 1_000_000\n")
    watched.check()
    file.write_text("[peers]\nbeta = -5\n[nonsense]\n")
    watched.check()
    assert rates(caps.lane(PORT, "beta", None, bulk=True)) == [None, 1e6]
