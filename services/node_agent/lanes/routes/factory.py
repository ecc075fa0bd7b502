"""Builds a lane's link: relay, direct route, caps, counters."""

from __future__ import annotations

from uuid import UUID

from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.caps import Caps, CapUser
from services.node_agent.lanes.routes.direct import AwaitedWay, ConnectingWay, DirectListener
from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.lanes.routes.routed_link import DirectWay, RoutedLink
from services.node_agent.metrics import Direction, NodeMetrics, Route
from services.node_agent.settings import DirectSection
from shared.page_stream.bodies import LaneRole
from shared.rabbit.lanes import RabbitLanes
from shared.topology import Lane

URGENT_LANES = frozenset({Lane.CONTROL, Lane.URGENT})
SINGLE_LANES = URGENT_LANES | {Lane.EXTENSION}
"""Lanes of one TCP connection: with several, a frame would wait for the slowest of them."""


class LaneRoutes:
    """Makes links; one per process."""

    def __init__(
        self,
        relay: RabbitLanes[LinkDown],
        settings: DirectSection,
        metrics: NodeMetrics,
        *,
        caps: Caps,
        listener: DirectListener,
    ) -> None:
        self._relay = relay
        self._settings = settings
        self._metrics = metrics
        self._caps = caps
        self._listener = listener

    async def link(self, end: LaneEnd, lane: Lane) -> RoutedLink:
        """One lane's link; it may be down still."""
        both_ways = lane is Lane.EXTENSION
        sends_bulk = both_ways or (end.role is LaneRole.INITIATOR and lane not in URGENT_LANES)
        receives_bulk = both_ways or (end.role is LaneRole.ACCEPTOR and lane not in URGENT_LANES)
        relay = self._relay.link(end.port_id, lane, end.peer, sends_bulk=sends_bulk, receives_bulk=receives_bulk)
        agreed = end.agreement.limits.bandwidth_bytes_per_s
        user = CapUser.EXTENSION if both_ways else CapUser.TRANSFER
        cap = self._caps.lane(end.port_id, end.peer.owner, agreed, bulk=sends_bulk, user=user)
        wire = self._metrics.stream_wire_bytes_total
        counters = {
            (route, direction): wire.labels(lane, route, direction) for route in Route for direction in Direction
        }

        def count(route: Route, direction: Direction, size_bytes: int) -> None:
            counters[route, direction].inc(size_bytes)

        return RoutedLink(
            relay,
            self._way(end, lane),
            cap=cap,
            count=count,
            direct_within_s=self._settings.connect_within_s,
            name=f"{end.port_id}.{lane}",
        )

    def forget(self, port_id: UUID) -> None:
        """The port's transfer is over."""
        self._caps.forget(port_id)

    def forget_extension(self, port_id: UUID) -> None:
        """The port's network extension is over."""
        self._caps.forget(port_id, CapUser.EXTENSION)

    def _way(self, end: LaneEnd, lane: Lane) -> DirectWay | None:
        if end.is_connected_to and self._settings.listen is not None:
            return AwaitedWay(self._listener, end.port_id, lane)
        if end.connects_to and self._settings.connect:
            return ConnectingWay(
                end.connects_to,
                end.port_id,
                lane,
                connections=1 if lane in SINGLE_LANES else self._settings.connections,
                within_s=self._settings.connect_within_s,
                retry_s=self._settings.retry_s,
            )
        return None
