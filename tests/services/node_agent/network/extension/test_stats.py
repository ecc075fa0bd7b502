"""Counters and what is told of them."""

from __future__ import annotations

from services.node_agent.network.extension.stats import CardCounters
from services.node_agent.network.extension.verdict import Reason


def test_a_snapshot_stays_as_it_was() -> None:
    """Later counts do not change it; reasons without a frame are left out."""
    counters = CardCounters()
    assert counters.snapshot(activated=False).last_traffic_s is None
    counters.sent(2, 100)
    counters.received(50)
    counters.last_traffic_s = 7.0
    counters.dropped[Reason.QUEUE] += 3
    counters.dropped[Reason.TYPE] += 0
    before = counters.snapshot(activated=True)
    counters.dropped[Reason.QUEUE] += 1
    assert (before.out_frames, before.out_bytes, before.into_frames, before.into_bytes) == (2, 100, 1, 50)
    assert (before.dropped, before.last_traffic_s, before.activated) == ({Reason.QUEUE: 3}, 7.0, True)
