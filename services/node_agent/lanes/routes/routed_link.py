"""RoutedLink: a lane's link over two routes: RabbitMQ always, direct TCP where possible. Chooses the route.

Rule 1  Both routes are kept attached and listened to all the time; each end chooses by itself where it *sends*: direct
        while that stands, else the relay. The ends need not agree, because every frame is taken from wherever it comes.
Rule 2  A change of the route is a LinkDown to the session, which resyncs at once (HELLO). Frames that still come by the
        old route are late, not wrong: the lane takes what is next and drops the rest.
Rule 3  At the beginning the relay is used if there is no direct route within `direct_within_s`, or as soon
        as the other end sends by the relay: it has no direct route, or has waited for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from services.node_agent.lanes.routes.direct_connection import DirectConnection
from services.node_agent.lanes.routes.link import LaneLink, LinkDown
from services.node_agent.metrics import Direction, Route
from shared.logs import get_logger
from shared.page_stream.frame import FrameBytes
from shared.tasks import Tasks

log = get_logger(__name__)

HELD_BYTES = 64 * 1024 * 1024
"""More than any window. What comes beyond it is dropped, as a lossy route may."""


class DirectWay(Protocol):
    """How a lane gets its direct connections."""

    async def connect(self, has_route: Callable[[], bool]) -> DirectConnection:
        """The next connection: made, or taken as it arrives; tries for ever, in haste while there is no route."""
        ...

    async def close(self) -> None:
        """Make and take no more."""
        ...


class Cap(Protocol):
    """Delays bytes to a rate."""

    async def throttle(self, size_bytes: int) -> None:
        """Return when so many bytes may leave."""
        ...


Count = Callable[[Route, Direction, int], None]


class RoutedLink:
    """A LaneLink. `direct` None: the relay is the only route."""

    def __init__(
        self,
        relay: LaneLink,
        direct: DirectWay | None,
        *,
        cap: Cap,
        count: Count,
        direct_within_s: float = 1.0,
        name: str = "",
    ) -> None:
        self._relay = relay
        self._way = direct
        self._cap = cap
        self._count = count
        self._direct_within_s = direct_within_s
        self._name = name
        self._tasks = Tasks(f"routes of {name}")
        self._started = False
        self._closed = False
        self._relay_up = False
        self._relay_why = "not attached yet"
        self._direct: DirectConnection | None = None
        self._using: Route | None = None
        self._broken: BaseException | None = None
        self._frames: deque[FrameBytes] = deque()
        self._held_bytes = 0
        self._arrived = asyncio.Event()
        self._routes_changed = asyncio.Event()

    @property
    def route(self) -> Route | None:
        """Where this end sends now."""
        return self._using

    async def send(self, frame: bytes) -> None:
        """Send by the route in use, when the caps let it. Raises LinkDown when it is gone or a better one is there."""
        self._check_route()
        await self._cap.throttle(len(frame))
        self._check_route()
        if self._using is Route.DIRECT and self._direct is not None:
            await self._direct.send(frame)
        else:
            await self._relay.send(frame)
        if self._using is not None:
            self._count(self._using, Direction.OUTBOUND, len(frame))

    async def receive(self) -> FrameBytes:
        """The next frame of either route. Raises LinkDown as `send`."""
        while not self._frames:
            self._check_route()
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        self._held_bytes -= len(frame)
        return frame

    async def wait_up(self) -> None:
        """Return once a route is usable."""
        if not self._started:
            self._start()
            if self._way is not None:
                await self._wait_for_direct()
        while (route := self._best()) is None:
            self._check_usable()
            self._routes_changed.clear()
            await self._routes_changed.wait()
        if route is not self._using:
            log.info("lane route changed", lane=self._name, route=route.value, before=self._using and self._using.value)
        self._using = route

    async def close(self) -> None:
        """Leave all routes; idempotent."""
        self._closed = True
        self._wake()
        connection, self._direct = self._direct, None
        if connection is not None:
            await connection.close()
        await self._tasks.close()
        if self._way is not None:
            await self._way.close()
        await self._relay.close()

    def _start(self) -> None:
        self._started = True
        self._tasks.spawn(self._guard(self._serve_relay), name="relay")
        if self._way is not None:
            way = self._way
            self._tasks.spawn(self._guard(lambda: self._serve_direct(way)), name="direct")

    async def _wait_for_direct(self) -> None:
        try:
            async with asyncio.timeout(self._direct_within_s):
                while self._direct is None and not self._frames:
                    self._check_usable()
                    self._routes_changed.clear()
                    await self._routes_changed.wait()
        except TimeoutError:
            log.info("no direct route yet, using the relay", lane=self._name)

    async def _guard(self, serve: Callable[[], Awaitable[None]]) -> None:
        """An error that waiting does not repair ends the lane, not only this task."""
        try:
            await serve()
        except Exception as error:  # noqa: BLE001  # raised again by the next call on the link
            self._broken = error
            self._wake()

    async def _serve_relay(self) -> None:
        while not self._closed:
            try:
                await self._relay.wait_up()
                self._relay_up = True
                self._wake()
                while True:
                    self._receive_frame(await self._relay.receive(), Route.RELAY)
            except LinkDown as error:
                self._relay_up, self._relay_why = False, error.reason
                self._wake()
                await asyncio.sleep(0.05)  # a link that breaks at once again must not spin

    async def _serve_direct(self, way: DirectWay) -> None:
        while not self._closed:
            try:
                async with self._attached(await way.connect(lambda: self._relay_up)) as connection:
                    while True:
                        self._receive_frame(await connection.receive(), Route.DIRECT)
            except LinkDown as error:
                log.info("direct route lost", lane=self._name, reason=error.reason)

    @asynccontextmanager
    async def _attached(self, connection: DirectConnection) -> AsyncIterator[DirectConnection]:
        self._direct = connection
        self._wake()
        try:
            yield connection
        finally:
            if self._direct is connection:
                self._direct = None
            self._wake()
            await connection.close()

    def _receive_frame(self, frame: FrameBytes, route: Route) -> None:
        self._count(route, Direction.INBOUND, len(frame))
        if self._held_bytes + len(frame) > HELD_BYTES:
            return
        self._frames.append(frame)
        self._held_bytes += len(frame)
        self._arrived.set()
        if self._using is None:
            self._routes_changed.set()

    def _wake(self) -> None:
        self._arrived.set()
        self._routes_changed.set()

    def _best(self) -> Route | None:
        if self._direct is not None and not self._direct.lost.is_set():
            return Route.DIRECT
        return Route.RELAY if self._relay_up else None

    def _check_usable(self) -> None:
        if self._closed:
            raise LinkDown("the link was closed")
        if self._broken is not None:
            raise self._broken

    def _check_route(self) -> None:
        self._check_usable()
        best = self._best()
        if best is None or best is not self._using:
            why = self._relay_why if best is None else f"the lane goes over to the {best.value} route"
            raise LinkDown(why)
