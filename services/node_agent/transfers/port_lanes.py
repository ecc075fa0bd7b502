"""The four lanes of one port at one end, run together: when one fails, the transfer is over. Knows no route."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from services.node_agent.lanes.core.errors import LaneError
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.core.stats import LaneStats
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.pump import SocketReader, SocketWriter, StreamPump
from services.node_agent.lanes.routes.link import LaneLink
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.tls import LaneTls
from services.node_agent.metrics import Route
from services.node_agent.transfers.port_codecs import PortCodecs
from shared.tasks import Tasks
from shared.topology import PORT_LANES, Lane


class PortLink(LaneLink, Protocol):
    """A lane's link that knows where it sends."""

    @property
    def route(self) -> Route | None:
        """The route in use; None before the first."""
        ...


class PortRoutes(Protocol):
    """Makes the links of ports' lanes."""

    async def link(self, end: LaneEnd, lane: Lane) -> PortLink:
        """Return one lane's link; it may be down still. The session owns and closes it."""
        ...

    def forget(self, port_id: UUID) -> None:
        """The port is over."""
        ...


LinkFactory = Callable[[LaneEnd, Lane], Awaitable[PortLink]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTuning:
    """Sizes and times of a port's lanes.

    What is in flight in the memory lane is unknown to QEMU: within its window it follows the link (flight.py).
    """

    control_window_bytes: int = 1 << 20
    memory_window_bytes: int = 4 << 20
    disk_window_bytes: int = 8 << 20
    silence_s: float = 300.0

    def window_bytes(self, lane: Lane) -> int:
        """One lane's window."""
        match lane:
            case Lane.CONTROL | Lane.URGENT:
                return self.control_window_bytes
            case Lane.MEMORY:
                return self.memory_window_bytes
            case Lane.DISK | Lane.EXTENSION:  # the latter is not among a port's lanes
                return self.disk_window_bytes

    def follows_link(self, lane: Lane) -> bool:
        """Whether less of a lane's window is taken where bandwidth x delay is less: where there is bulk."""
        return lane in {Lane.MEMORY, Lane.DISK}


class PortLanes:
    """One end of a port's lanes. `failed` becomes done, with the error, when a lane ends by itself."""

    def __init__(
        self, sessions: Mapping[Lane, LaneSession], links: Mapping[Lane, PortLink], codecs: PortCodecs
    ) -> None:
        self._sessions = dict(sessions)
        self._links = dict(links)
        self.codecs = codecs
        self._tasks = Tasks("port lanes")
        self._pumps: list[tuple[Lane, StreamPump]] = []
        self._closing = False
        self.failed: asyncio.Future[LaneError] = asyncio.get_running_loop().create_future()
        for lane, session in self._sessions.items():
            self._tasks.spawn(self._run(session), name=str(lane))

    @classmethod
    async def open(
        cls,
        end: LaneEnd,
        make_link: LinkFactory,
        tls: LaneTls,
        tuning: LaneTuning,
        *,
        codecs: PortCodecs,
    ) -> PortLanes:
        """Make routes and sessions; they connect in the background."""
        sessions, links = {}, {}
        for lane in PORT_LANES:
            settings = LaneSettings(
                lane=f"{end.port_id}.{lane}",
                role=end.role,
                window_bytes=tuning.window_bytes(lane),
                window_follows_link=tuning.follows_link(lane),
                silence_s=tuning.silence_s,
            )
            links[lane] = await make_link(end, lane)
            sessions[lane] = LaneSession(links[lane], settings, seal=tls.seal())
        return cls(sessions, links, codecs)

    @property
    def control(self) -> LaneSession:
        """libvirt's RPC and the agents' own signals."""
        return self._sessions[Lane.CONTROL]

    @property
    def memory(self) -> LaneSession:
        """QEMU's migration stream."""
        return self._sessions[Lane.MEMORY]

    @property
    def urgent(self) -> LaneSession:
        """Pages that a guest waits for in post-copy: QEMU's second connection, never behind the bulk of the first."""
        return self._sessions[Lane.URGENT]

    @property
    def disk(self) -> LaneSession:
        """NBD."""
        return self._sessions[Lane.DISK]

    def session(self, lane: Lane) -> LaneSession:
        """Any lane."""
        return self._sessions[lane]

    async def wait_ready(self, within_s: float) -> None:
        """Return when the other end has answered on every lane. Raises TimeoutError or LaneError."""
        async with asyncio.timeout(within_s):
            for session in self._sessions.values():
                await session.wait_ready()

    async def pump(self, lane: Lane, reader: SocketReader, writer: SocketWriter, stream: LaneStream) -> None:
        """Join a socket with a stream until both ended; see `StreamPump.run` for what it raises."""
        encoder, decoder = self.codecs.pair(lane)
        pump = StreamPump(reader, writer, stream, encoder=encoder, decoder=decoder, arrivals=self.codecs.arrivals)
        self._pumps.append((lane, pump))
        await pump.run()

    def raw_bytes(self, lane: Lane) -> int:
        """Bytes that the hypervisors exchanged on a lane, both directions."""
        return sum(self.raw_bytes_by_direction(lane))

    def raw_bytes_by_direction(self, lane: Lane) -> tuple[int, int]:
        """Bytes taken from this host's hypervisor, and bytes given to it."""
        stats = [pump.stats() for of, pump in self._pumps if of is lane]
        return sum(each.sent.raw_bytes for each in stats), sum(each.received.raw_bytes for each in stats)

    def held_bytes(self, lane: Lane) -> int:
        """What the lane's codec lets wait, on top of what the lane itself holds."""
        return sum(pump.held_bytes for of, pump in self._pumps if of is lane)

    def held_raw_bytes(self, lane: Lane) -> int:
        """The same as bytes of the hypervisor."""
        return sum(pump.held_raw_bytes for of, pump in self._pumps if of is lane)

    def hold_at_most(self, lane: Lane, limit_bytes: int) -> None:
        """How much each stream of a lane may let wait from now on."""
        for of, pump in self._pumps:
            if of is lane:
                pump.hold_at_most(limit_bytes)

    def stop_reading(self, lane: Lane, *, stopped: bool) -> None:
        """Take nothing more from this host's hypervisor on a lane for now, or go on; see `StreamPump.stop_reading`."""
        for of, pump in self._pumps:
            if of is lane:
                pump.stop_reading(stopped=stopped)

    def contents(self, lane: Lane) -> Counter[str]:
        """Bytes of guest memory and disk that left on a lane, by the technique of the codec that took care of them."""
        found: Counter[str] = Counter()
        for of, pump in self._pumps:
            if of is lane:
                found.update(pump.stats().sent.contents)
        return found

    def stats(self) -> dict[Lane, LaneStats]:
        """Each lane's counters."""
        return {lane: session.stats() for lane, session in self._sessions.items()}

    def route(self, lane: Lane) -> Route:
        """Where a lane's bytes go now; the relay before there is any."""
        return self._links[lane].route or Route.RELAY

    def wire_bytes(self) -> int:
        """Bytes on the wire, all lanes, both directions, repetitions included."""
        return sum(stats.sent_bytes + stats.received_bytes for stats in self.stats().values())

    async def close(self, *, flush_s: float = 5.0) -> None:
        """End all lanes in order; idempotent. What the codecs hold is free then; pumps and their counters are gone."""
        self._closing = True
        await asyncio.gather(*(session.close(flush_s=flush_s) for session in self._sessions.values()))
        await self._tasks.close()
        self.codecs.close()
        # They are in cycles of objects too few to be collected soon, and a codec has tens of megabytes.
        self._pumps.clear()

    async def _run(self, session: LaneSession) -> None:
        try:
            await session.run()
        except LaneError as error:
            if not self._closing and not self.failed.done():
                self.failed.set_result(error)
