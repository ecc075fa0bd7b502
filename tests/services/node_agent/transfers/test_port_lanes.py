from __future__ import annotations

import asyncio
import gc
import random
import socket
import weakref
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from services.node_agent.metrics import Direction, NodeMetrics
from services.node_agent.transfers.lane_metrics import LaneMetrics
from services.node_agent.transfers.outbound import OutboundResult
from services.node_agent.transfers.port_codecs import DonorCodecs
from services.node_agent.transfers.port_lanes import LaneTuning, PortLanes
from shared.page_stream.bodies import StreamKind
from shared.topology import Lane
from tests.support.migration_stream import StreamWriter

if TYPE_CHECKING:
    from services.node_agent.lanes.stream import LaneStream
    from tests.support.transfer_pair import Pair

PAGES = 64


def test_only_bulk_follows_the_link() -> None:
    """libvirt's calls and the pages that a guest waits for have their whole window at once."""
    tuning = LaneTuning()
    assert {lane for lane in Lane if tuning.follows_link(lane)} == {Lane.MEMORY, Lane.DISK}


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


@pytest.mark.parametrize(("hold", "waiting"), [(10**6, PAGES), (10_000, 2), (0, 0)])
async def test_hot_pages_that_wait_are_told_by_lane(pair: Pair, hold: int, waiting: int) -> None:
    """As many as may wait, and no other lane's."""
    lanes_a, lanes_b = pair.lanes_a, pair.lanes_b
    async with asyncio.timeout(20):
        sent = lanes_a.memory.open_stream(StreamKind.MEMORY, "memory")
        await asyncio.gather(
            pump(lanes_a, sent, hot_stream(6), hold=hold), pump(lanes_b, await lanes_b.memory.accept(), b"")
        )
    assert {lane: lanes_a.held_bytes(lane) for lane in Lane} == dict.fromkeys(Lane, 0) | {Lane.MEMORY: waiting * 4096}
    assert lanes_b.held_bytes(Lane.MEMORY) == 0


async def test_lanes_are_metered_while_they_run(pair: Pair) -> None:
    """All that a port's hypervisor gave is counted; what is under way is nothing again at the end."""
    lanes_a, lanes_b = pair.lanes_a, pair.lanes_b
    metrics = NodeMetrics(CollectorRegistry())
    meter = LaneMetrics(lanes_a, metrics)
    data = hot_stream(6)
    async with asyncio.timeout(20):
        with meter.counting():
            sent = lanes_a.memory.open_stream(StreamKind.MEMORY, "memory")
            await asyncio.gather(pump(lanes_a, sent, data, hold=0), pump(lanes_b, await lanes_b.memory.accept(), b""))
            meter._count()
            allowed = metrics.lane_raw_allowed_bytes.labels(Lane.MEMORY)._value.get()
            assert allowed == lanes_a.memory.stats().allowed_out_raw_bytes > 0
    counted = metrics.stream_raw_bytes_total.labels(Lane.MEMORY, lanes_a.route(Lane.MEMORY), Direction.OUTBOUND)
    assert counted._value.get() == len(data)
    assert lanes_a.memory.stats().raw_sent_bytes == pytest.approx(len(data), rel=0.001)
    assert [gauge.labels(Lane.MEMORY)._value.get() for gauge in metrics.lane_gauges] == [0, 0, 0, 0]


async def test_a_port_that_is_over_holds_no_codec(pair: Pair) -> None:
    """Not even until the garbage collector looks: each holds tens of megabytes, and the process lives for years."""
    (pair.tmp / "a" / "web.raw").write_bytes(random.Random(1).randbytes(PAGES * 4096))  # noqa: S311  # as above
    gc.collect()
    gc.disable()
    try:
        result, _ = await pair.run()
        assert isinstance(result, OutboundResult)
        assert isinstance(pair.lanes_a.codecs, DonorCodecs)
        ids = pair.lanes_a.codecs.port.contents
        assert len(ids)
        pumps = [pump for lanes in (pair.lanes_a, pair.lanes_b) for _, pump in lanes._pumps]
        codecs: list[weakref.ref[object]] = [
            weakref.ref(codec) for pump in pumps for codec in (pump._encoder, pump._decoder)
        ]
        del pumps
        for lanes in (pair.lanes_a, pair.lanes_b):
            await lanes.close(flush_s=0.0)
        assert len(codecs) >= 8
        assert [type(each()) for each in codecs if each() is not None] == []
        assert not len(ids)
    finally:
        gc.enable()
