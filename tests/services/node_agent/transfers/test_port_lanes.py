from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import TYPE_CHECKING

import pytest

from services.node_agent.transfers.outbound_result import OutboundResult
from services.node_agent.transfers.port_codecs import DonorCodecs
from services.node_agent.transfers.port_lanes import LaneTuning
from shared.page_stream.bodies import StreamKind
from shared.topology import PORT_LANES, Lane
from tests.support.lane_traffic import PAGES, hot_stream, pump

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair


def test_only_bulk_follows_the_link() -> None:
    """libvirt's calls and the pages that a guest waits for have their whole window at once."""
    tuning = LaneTuning()
    assert {lane for lane in Lane if tuning.follows_link(lane)} == {Lane.MEMORY, Lane.DISK}


@pytest.mark.parametrize(("hold", "waiting"), [(10**6, PAGES), (10_000, 2), (0, 0)])
async def test_hot_pages_that_wait_are_told_by_lane(pair: Pair, hold: int, waiting: int) -> None:
    """As many as may wait, and no other lane's."""
    lanes_a, lanes_b = pair.lanes_a, pair.lanes_b
    async with asyncio.timeout(20):
        sent = lanes_a.memory.open_stream(StreamKind.MEMORY, "memory")
        await asyncio.gather(
            pump(lanes_a, sent, hot_stream(6), hold=hold), pump(lanes_b, await lanes_b.memory.accept(), b"")
        )
    assert {lane: lanes_a.held_bytes(lane) for lane in PORT_LANES} == dict.fromkeys(PORT_LANES, 0) | {
        Lane.MEMORY: waiting * 4096
    }
    assert lanes_b.held_bytes(Lane.MEMORY) == 0


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
