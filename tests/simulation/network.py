"""The world's network: the bus in memory with delay, loss, duplicates, partitions and restarts; lanes that can be cut.

RabbitMQ loses nothing that it has confirmed. What may be lost is a publish that fails, with or without its message
stored; what may come twice is anything. Messages of one sender keep their order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.testing import MemoryLink, MemoryRoute
from shared import testing
from shared.bus import BusDown
from shared.messages import AnyEnvelope
from shared.metrics import Metrics
from shared.page_stream.bodies import LaneRole
from shared.parties import Party
from shared.testing import MemoryBroker, MemoryBus
from shared.topology import Lane, has_urgent_inbox
from tests.simulation.process import Process

_METRICS = Metrics(service="simulation", version="0").bus
Tap = Callable[[Party, Party, AnyEnvelope], None]


class Weather:
    """How the network is in this schedule."""

    def __init__(
        self, chance: random.Random, *, delay_s: float = 0.0, lose: float = 0.0, doubt: float = 0.0, double: float = 0.0
    ) -> None:
        """`lose`: share of publishes that fail; `doubt`: are stored and fail all the same; `double`: come twice."""
        self._chance = chance
        self.delay_s = delay_s
        self.lose, self.doubt, self.double = lose, doubt, double

    def happens(self, share: float) -> bool:
        """Whether it happens this time."""
        return share > 0 and self._chance.random() < share

    def next_delay_s(self) -> float:
        """Of one message."""
        return self._chance.random() * self.delay_s if self.delay_s else 0.0


class SimBroker(MemoryBroker):
    """RabbitMQ of the world. `tap` sees each message as it is stored; `acked` each that was acknowledged."""

    def __init__(self, *parties: Party, weather: Weather, tap: Tap, acked: Callable[[Party, str], None]) -> None:
        super().__init__(*parties)
        self.weather = weather
        self.tap = tap
        self.acked = acked
        self.away: dict[Party, int] = dict.fromkeys(parties, 0)
        self.up = {party: asyncio.Event() for party in parties}
        for event in self.up.values():
            event.set()

    def bus_of(self, party: Party, process: Process) -> SimBus:
        """A process's connection."""
        return SimBus(self, party, process)

    def cut(self, *parties: Party) -> None:
        """These cannot reach RabbitMQ until `mend`. Cuts count: two that overlap end with the later one."""
        for party in parties:
            self.away[party] += 1
            self.up[party].clear()
            self.sever(party)

    def mend(self, *parties: Party) -> None:
        """The end of one cut."""
        for party in parties:
            self.away[party] -= 1
            if not self.away[party]:
                self.up[party].set()

    def sever(self, party: Party) -> None:
        """A party's connection breaks: what it had in hand comes again."""
        for queue in self._queues():
            if queue.owner == party:
                for subscription in list(queue.subscriptions):
                    subscription.lose()


class _View:
    """RabbitMQ as one party reaches it."""

    def __init__(self, broker: SimBroker, party: Party, process: Process) -> None:
        self.broker = broker
        self.process = process
        self.party = party
        self._up = broker.up[party]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.broker, name)


class SimBus(MemoryBus):
    """One process's bus."""

    def __init__(self, broker: SimBroker, party: Party, process: Process) -> None:
        # Not the base's: it makes a registry of metrics for each bus.
        self._broker = _View(broker, party, process)  # type: ignore[assignment]  # as the base uses it
        self._net = broker
        self._process = process
        self.party = party
        self._prefetch = 32
        self._closed = False
        self.metrics = _METRICS
        self.consuming = asyncio.Event()
        self._turn = asyncio.Lock()
        process.at_death(lambda: broker.sever(party))

    async def publish(self, to: Party, envelope: AnyEnvelope) -> None:
        """Store a message; raises `BusDown` when it may not have been stored."""
        kind = type(envelope.data).__name__
        self._process.touch("publish", f"{kind} to {to}")
        net, weather = self._net, self._net.weather
        async with self._turn:
            await asyncio.sleep(weather.next_delay_s())
        self._process.touch("sent", kind)
        if not net.up[self.party].is_set():
            raise BusDown("the network is cut")
        if weather.happens(weather.lose):
            raise BusDown("the connection broke before the message was stored")
        body = envelope.to_json()
        urgent = type(envelope.data).URGENT and has_urgent_inbox(to)
        for _ in range(2 if weather.happens(weather.double) else 1):
            net.put_raw(to, body, user_id=str(self.party), message_id=str(envelope.id), urgent=urgent)
        net.tap(self.party, to, envelope)
        if weather.happens(weather.doubt):
            raise BusDown("the connection broke before the message was confirmed")
        self._process.touch("confirmed", kind)


class _Subscription(testing._Subscription):  # the settling side of the bus in memory
    """Counts acknowledgements as steps, and tells which messages they were for."""

    async def acknowledge(self, token: Any) -> None:
        view: Any = self._broker
        if isinstance(view, _View):
            view.process.touch("ack", token.message_id or "")
        await super().acknowledge(token)
        if isinstance(view, _View):
            view.broker.acked(view.party, token.message_id or "")
            view.process.touch("acked")


testing._Subscription = _Subscription  # type: ignore[misc]  # for every bus of this program


class SimLink(MemoryLink):
    """One end of a lane, held by a process."""

    def __init__(self, process: Process, route: MemoryRoute, at: MemoryLink) -> None:
        super().__init__(route, outgoing=at._outgoing, incoming=at._incoming)  # another hold on the same end
        self._process = process
        self._cuts = route.cuts

    async def send(self, frame: bytes) -> None:
        """As the base; a dead process sends nothing."""
        if not self._process.alive:
            self._process.touch("lane")
        await super().send(frame)


class SimRoutes:
    """The ways between all nodes, shared; `of` gives one process its `PortRoutes`."""

    def __init__(self) -> None:
        self.routes: dict[tuple[UUID, Lane], MemoryRoute] = {}
        self._cuts = 0

    def of(self, process: Process) -> _RoutesOf:
        """One process's."""
        return _RoutesOf(self, process)

    def route(self, port_id: UUID, lane: Lane) -> MemoryRoute:
        """A lane's route."""
        key = (port_id, lane)
        if key not in self.routes:
            self.routes[key] = MemoryRoute()
            if self._cuts:
                self.routes[key].cut()
        return self.routes[key]

    def cut(self) -> None:
        """All lanes are down until `mend`."""
        self._cuts += 1
        for route in self.routes.values():
            route.cut()

    def mend(self) -> None:
        """The end of one cut."""
        self._cuts -= 1
        if not self._cuts:
            for route in self.routes.values():
                route.mend()


class _RoutesOf:
    def __init__(self, all_routes: SimRoutes, process: Process) -> None:
        self._all = all_routes
        self._process = process

    async def link(self, end: LaneEnd, lane: Lane) -> MemoryLink:
        """One end's link."""
        route = self._all.route(end.port_id, lane)
        return SimLink(self._process, route, route.a if end.role is LaneRole.INITIATOR else route.b)

    def forget(self, port_id: UUID) -> None:
        """One end is over; the other one may still have something to read."""
