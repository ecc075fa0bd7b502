"""Direct lanes on loopback TCP, the change of routes under a running lane, and caps."""

from __future__ import annotations

import pytest

from services.node_agent.lanes.routes.link import LinkDown
from tests.support.two_routes import connected


async def test_an_announced_giant_ends_the_connection() -> None:
    """A length that no frame has is not waited for."""
    async with connected(1) as (near, far):
        near._pipes[0].write((2**31).to_bytes(4) + bytes(8))
        with pytest.raises(LinkDown, match="announced"):
            await far.receive()
