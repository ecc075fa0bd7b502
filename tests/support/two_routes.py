"""Both ends of a lane with two routes, relay and direct TCP, for tests."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.routes.caps import Caps, LaneCap
from services.node_agent.lanes.routes.direct import AwaitedWay, ConnectingWay, DirectListener, connect_direct
from services.node_agent.lanes.routes.direct_connection import DirectConnection
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
        far = await way.connect(lambda: False)
        try:
            yield near, far
        finally:
            await near.close()
            await far.close()
            await way.close()


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


def rates(cap: LaneCap) -> list[float | None]:
    """The caps of a lane's port and of its pair."""
    return [bucket.rate_bytes_per_s for bucket in cap._buckets]
