"""The broker's lanes in memory."""

from __future__ import annotations

from uuid import uuid4

from shared.bus import LaneEnds
from shared.parties import node
from shared.testing_lanes import MemoryLaneAdmin


async def test_lanes_open_and_close_idempotently() -> None:
    """Both may be repeated; a close counts once."""
    admin, ends = MemoryLaneAdmin(), LaneEnds(uuid4(), node("alpha", "a-1"), node("beta", "b-1"))
    for _ in range(2):
        await admin.open_lanes(ends)
    assert admin.open == {ends.port_id: ends}
    for _ in range(2):
        await admin.close_lanes(ends)
    assert (admin.open, admin.closed) == ({}, [ends.port_id])
    for _ in range(2):
        await admin.open_extension(ends)
    assert admin.extensions == {ends.port_id: ends}
    for _ in range(2):
        await admin.close_extension(ends)
    assert admin.extensions == {}
