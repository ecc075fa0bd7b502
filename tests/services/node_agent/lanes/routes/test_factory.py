from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from services.donor_agent.testing import make_agreement
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.caps import Caps
from services.node_agent.lanes.routes.direct import DirectListener
from services.node_agent.lanes.routes.factory import LaneRoutes
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.metrics import NodeMetrics
from services.node_agent.settings import DirectSection
from shared.page_stream.bodies import LaneRole
from shared.parties import Party
from shared.topology import Lane


class Relay:
    """Records which connections a lane asks for."""

    def __init__(self) -> None:
        self.asked: dict[Lane, tuple[bool, bool]] = {}
        self.ends: set[tuple[UUID, Party]] = set()

    def link(self, port_id: UUID, lane: Lane, peer: Party, *, sends_bulk: bool, receives_bulk: bool) -> Any:
        """A link that nobody uses."""
        self.asked[lane] = (sends_bulk, receives_bulk)
        self.ends.add((port_id, peer))
        return MemoryRoute().a


@pytest.mark.parametrize("role", list(LaneRole))
async def test_only_guest_data_shares_a_connection_with_bulk(role: LaneRole) -> None:
    """Memory and disk are bulk on their way to the recipient, and a network extension both ways; nothing else is."""
    relay: Any = Relay()
    metrics = NodeMetrics(CollectorRegistry())
    routes = LaneRoutes(relay, DirectSection(), metrics, caps=Caps(), listener=DirectListener())
    end = LaneEnd(make_agreement(), role)
    links = [await routes.link(end, lane) for lane in Lane]
    bulk = (True, False) if role is LaneRole.INITIATOR else (False, True)
    assert relay.asked == {
        Lane.CONTROL: (False, False),
        Lane.URGENT: (False, False),
        Lane.MEMORY: bulk,
        Lane.DISK: bulk,
        Lane.EXTENSION: (True, True),
    }
    assert relay.ends == {(end.port_id, end.peer)}
    for link in links:
        await link.close()
    routes.forget(end.port_id)
