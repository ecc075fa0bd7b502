"""A lane over a real RabbitMQ: exact bytes despite cuts and a killed node, bounded queues, restarted endpoints."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.node_agent.lanes.core.errors import LaneClosedError, LaneError, PeerRestartedError
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.tls import LaneTls
from shared.bus import LaneEnds
from shared.metrics import BusMetrics
from shared.page_stream.bodies import LaneRole, StreamKind
from shared.parties import BROKER, Party, node
from shared.rabbit.lanes import RabbitLaneAdmin, RabbitLanes
from shared.topology import Lane, lane_exchange, lane_queue
from tests.support.lane_credentials import make_pair
from tests.support.rabbitmq_node import RabbitNode
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.servers

MIB = 1024 * 1024
ALPHA, BETA = node("alpha", "alpha-1"), node("beta", "beta-1")
BLOCK = os.urandom(MIB)


@dataclass
class Route:
    """A port's memory lane over one RabbitMQ node; each endpoint connects through its own proxy."""

    port_id: UUID
    lanes: dict[Party, RabbitLanes[LinkDown]]
    proxies: dict[Party, TcpProxy]
    tls: dict[LaneRole, LaneTls]
    sessions: list[LaneSession] = field(default_factory=list)
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, me: Party, **values: Any) -> LaneSession:
        """A new endpoint, running."""
        peer, role = (BETA, LaneRole.INITIATOR) if me == ALPHA else (ALPHA, LaneRole.ACCEPTOR)
        link = self.lanes[me].link(self.port_id, Lane.MEMORY, peer)
        session = LaneSession(
            link, LaneSettings(lane=f"{self.port_id}.memory", role=role, **values), seal=self.tls[role].seal()
        )
        self.sessions.append(session)
        self.running.append(asyncio.get_running_loop().create_task(session.run()))
        return session


@asynccontextmanager
async def a_route(rabbitmq: RabbitNode) -> AsyncIterator[Route]:
    """Lanes of a new port, made by the broker's user and removed at the end."""
    ends = LaneEnds(uuid4(), ALPHA, BETA)
    async with asyncio.timeout(100), AsyncExitStack() as stack:
        metrics = {party: BusMetrics(CollectorRegistry()) for party in (BROKER, ALPHA, BETA)}
        admin = RabbitLaneAdmin(rabbitmq.settings(BROKER), metrics[BROKER])
        stack.push_async_callback(admin.close)
        await admin.open_lanes(ends)
        stack.push_async_callback(admin.close_lanes, ends)
        with tempfile.TemporaryDirectory() as directory:
            pair = make_pair(Path(directory))
            tls = {role: pair.tls(role) for role in LaneRole}
        route = Route(ends.port_id, {}, {}, tls)
        for party in (ALPHA, BETA):
            proxy = route.proxies[party] = await stack.enter_async_context(TcpProxy(rabbitmq.port))
            settings = rabbitmq.settings(party, port=proxy.port)
            lanes = route.lanes[party] = RabbitLanes(settings, metrics[party], link_down=LinkDown)
            stack.push_async_callback(lanes.close)
        try:
            yield route
        finally:
            await asyncio.gather(*(session.close(flush_s=1.0) for session in route.sessions))
            for task in route.running:
                task.cancel()
            await asyncio.gather(*route.running, return_exceptions=True)


async def write_blocks(stream: LaneStream, count: int, *, pause_s: float = 0.0) -> str:
    """Send `count` different MiB and EOF; returns their digest."""
    digest = hashlib.sha256()
    for number in range(count):
        block = number.to_bytes(8) + BLOCK[8:]
        digest.update(block)
        await stream.write(block)
        await asyncio.sleep(pause_s)
    stream.write_eof()
    return digest.hexdigest()


async def read_digest(stream: LaneStream) -> str:
    """Read up to EOF; returns the digest."""
    digest = hashlib.sha256()
    while data := await stream.read_view():
        digest.update(data)
    return digest.hexdigest()


async def both_ways(route: Route, blocks: int, *, pause_s: float = 0.0) -> None:
    """Send in both directions at once and compare digests."""
    alpha, beta = route.start(ALPHA), route.start(BETA)
    there = alpha.open_stream(StreamKind.MEMORY, "there and back")
    back = await beta.accept()
    sent, sent_back, got, got_back = await asyncio.gather(
        write_blocks(there, blocks, pause_s=pause_s),
        write_blocks(back, blocks // 2, pause_s=pause_s),
        read_digest(back),
        read_digest(there),
    )
    assert (got, got_back) == (sent, sent_back)


async def test_bytes_cross_exactly(rabbitmq: RabbitNode) -> None:
    """Bytes sent in both directions at once arrive unchanged, and both ends close in order."""
    async with a_route(rabbitmq) as route:
        await both_ways(route, 64)
        alpha, beta = route.sessions
        assert all(await asyncio.gather(alpha.close(), beta.close()))
        await asyncio.gather(*route.running)
        assert alpha.stats().resent_bytes == 0
        assert alpha.stats().data_sent_bytes == beta.stats().data_received_bytes == 64 * MIB


def _drain(rabbitmq: RabbitNode, queue: str) -> list[bytes]:
    connection = rabbitmq.connect()
    try:
        channel = connection.channel()
        bodies: list[bytes] = []
        while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
            body = found[2]
            assert isinstance(body, bytes)
            bodies.append(body)
        return bodies
    finally:
        connection.close()


async def test_a_tap_on_the_relay_sees_ciphertext_only(rabbitmq: RabbitNode) -> None:
    """Whoever may bind a queue to a lane, as RabbitMQ's own administrator does here, sees no byte of the guest."""
    pattern = b"a page of the guest, known to the test".ljust(64, b".")
    async with a_route(rabbitmq) as route:
        tap = f"tap.{route.port_id}"
        connection = rabbitmq.connect()
        channel = connection.channel()
        channel.queue_declare(tap, durable=True)
        for party in (ALPHA, BETA):
            channel.queue_bind(tap, lane_exchange(route.port_id, Lane.MEMORY, party))
        connection.close()
        alpha, beta = route.start(ALPHA), route.start(BETA)
        there = alpha.open_stream(StreamKind.MEMORY, "label of the stream")
        back = await beta.accept()
        for _ in range(16):
            await there.write(pattern * 1024)
        there.write_eof()
        got = b""
        while data := await back.read():
            got += data
        assert got == pattern * 16 * 1024
        bodies = await asyncio.to_thread(_drain, rabbitmq, tap)
        seen = b"".join(bodies)
        assert len(seen) > len(got)
        assert pattern[:16] not in seen
        assert b"label of the stream" not in seen
        connection = rabbitmq.connect()
        connection.channel().queue_delete(tap)
        connection.close()


async def test_cut_connections(rabbitmq: RabbitNode) -> None:
    """Connections of both ends are reset again and again; no byte is lost, repeated or moved."""
    async with a_route(rabbitmq) as route:

        async def cut() -> None:
            for number in range(8):
                await asyncio.sleep(0.4)
                for party in ((ALPHA,), (BETA,), (ALPHA, BETA))[number % 3]:
                    route.proxies[party].cut()

        await asyncio.gather(both_ways(route, 96, pause_s=0.03), cut())
        alpha, beta = route.sessions
        assert alpha.stats().reconnects + beta.stats().reconnects >= 4


async def test_a_killed_node(rabbitmq: RabbitNode) -> None:
    """RabbitMQ is killed in the middle and comes back with empty queues; the stream goes on where it was."""
    async with a_route(rabbitmq) as route:

        async def restart() -> None:
            await asyncio.sleep(2.5)  # the queues of the parties must have settled: see the research on quorum queues
            await asyncio.to_thread(rabbitmq.kill)
            await asyncio.to_thread(rabbitmq.start)

        await asyncio.gather(both_ways(route, 96, pause_s=0.05), restart())
        alpha, beta = route.sessions
        assert min(alpha.stats().reconnects, beta.stats().reconnects) >= 1


async def test_a_reader_that_stands_still_bounds_the_relay(rabbitmq: RabbitNode) -> None:
    """Unread data is bounded by the window, in RabbitMQ's queue too, and arrives when it is read."""
    window_bytes = 4 * MIB
    async with a_route(rabbitmq) as route:
        alpha, beta = route.start(ALPHA, window_bytes=window_bytes), route.start(BETA, window_bytes=window_bytes)
        there = alpha.open_stream(StreamKind.MEMORY, "")
        back = await beta.accept()
        writing = asyncio.ensure_future(write_blocks(there, 32))
        done, _ = await asyncio.wait([writing], timeout=3.0)
        assert not done
        queue = lane_queue(route.port_id, Lane.MEMORY, BETA)
        rows = rabbitmq.ctl("list_queues", "-p", "vmport", "name", "message_bytes").splitlines()
        (queued,) = (int(row.split()[1]) for row in rows if row.startswith(queue))
        assert queued <= window_bytes
        assert alpha.stats().unconsumed_out_bytes <= window_bytes
        assert beta.stats().unconsumed_in_bytes <= window_bytes
        assert alpha.stats().resent_bytes == 0
        assert await read_digest(back) == await writing


async def test_a_memory_alarm_only_pauses(rabbitmq: RabbitNode) -> None:
    """While RabbitMQ takes nothing from publishers the lane waits; then it goes on, and repeats nothing."""
    async with a_route(rabbitmq) as route:

        async def alarm() -> None:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "absolute", "1MB")
            try:
                await asyncio.sleep(3.0)
                stuck = [session.stats().data_sent_bytes for session in route.sessions]
                await asyncio.sleep(1.0)
                assert [session.stats().data_sent_bytes for session in route.sessions] == stuck
            finally:
                await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "absolute", "400MB")

        await asyncio.gather(both_ways(route, 96, pause_s=0.05), alarm())
        assert [session.stats().resent_bytes for session in route.sessions] == [0, 0]


async def test_a_restarted_endpoint_ends_the_lane(rabbitmq: RabbitNode) -> None:
    """An agent that was killed and starts with empty state does not continue the stream; both ends are told why."""
    async with a_route(rabbitmq) as route:
        alpha, beta = route.start(ALPHA), route.start(BETA)
        there = alpha.open_stream(StreamKind.MEMORY, "")
        await there.write(b"first life")
        assert await (await beta.accept()).read() == b"first life"
        route.proxies[BETA].refusing = True  # as a killed process: no good-bye
        route.proxies[BETA].cut()
        route.running[1].cancel()
        await asyncio.wait([route.running[1]])
        await route.lanes[BETA].close()
        fresh_lanes = RabbitLanes(rabbitmq.settings(BETA), BusMetrics(CollectorRegistry()), link_down=LinkDown)
        route.lanes[BETA] = fresh_lanes
        route.start(BETA)
        try:
            with pytest.raises(PeerRestartedError, match="must start again"):
                await there.read()
            with pytest.raises(LaneError, match="must start again"):
                await route.running[2]
        finally:
            await fresh_lanes.close()


async def test_close_tells_the_other_end(rabbitmq: RabbitNode) -> None:
    """An orderly close is reported as an orderly close."""
    async with a_route(rabbitmq) as route:
        alpha, beta = route.start(ALPHA), route.start(BETA)
        closing = asyncio.ensure_future(alpha.close())
        with pytest.raises(LaneClosedError, match="by the other"):
            await beta.accept()
        assert await closing is True
