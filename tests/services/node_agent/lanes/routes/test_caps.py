"""Bandwidth caps: whose cap holds, and what waits for it."""

from __future__ import annotations

import asyncio
from uuid import UUID

from services.node_agent.lanes.routes.caps import Caps, CapUser
from tests.support.two_routes import PORT, rates


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


async def test_an_extension_keeps_its_caps_when_its_transfer_is_over() -> None:
    """What the operator changes then still holds for it; and nothing is kept of a port whose lanes are all gone."""
    caps = Caps()
    caps.lane(PORT, "beta", None, bulk=True)
    extension = caps.lane(PORT, "beta", None, bulk=True, user=CapUser.EXTENSION)
    caps.forget(PORT)
    caps.set_rates(peers={}, ports={PORT: 3e6})
    assert rates(extension) == [3e6, None]
    caps.forget(PORT, CapUser.EXTENSION)
    assert (caps._ports, caps._agreed, caps._users) == ({}, {}, {})
    caps.forget(PORT)


async def test_what_is_urgent_waits_for_no_cap() -> None:
    """An ack, or the return path's lane, is charged but not held back behind a debt."""
    caps = Caps()
    bulk = caps.lane(PORT, "beta", 100_000, bulk=True)
    urgent = caps.lane(PORT, "beta", 100_000, bulk=False)
    async with asyncio.timeout(2):
        await bulk.throttle(1_000_000)
        await bulk.throttle(56)
        await urgent.throttle(200_000)
