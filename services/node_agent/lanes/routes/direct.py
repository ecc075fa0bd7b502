"""Direct lanes: a node agent's listener, and connecting to another agent's.

The listener accepts connections only for lanes that it expects now. To get any answer, a stranger would have to guess a
port's id, which is random and known to the port's parties only.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from services.node_agent.lanes.routes.direct_connection import ACCEPTED, PREFACE_BYTES, DirectConnection, Preface
from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.lanes.routes.pipe import Pipe
from shared.backoff import Backoff
from shared.logs import get_logger
from shared.tasks import Tasks
from shared.topology import Lane

log = get_logger(__name__)

PREFACE_WITHIN_S: Final = 3.0
GROUP_WITHIN_S: Final = 5.0
MAX_NEWCOMERS: Final = 64
"""Most connections at a time that have not sent their preface yet."""

DOWN_RETRY_S: Final = 2.0
"""Longest pause between attempts while the lane has no route at all."""

_SHORT_LIFE_S: Final = 10.0  # a connection that is lost sooner counts as a failure

Arrived = Callable[[DirectConnection], None]
HasRoute = Callable[[], bool]
"""Whether the lane has another route meanwhile."""


def split_address(address: str) -> tuple[str | None, int]:
    """HOST:PORT with an IPv6 host in brackets; no host means every address. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not 0 <= int(port) < 65536:
        raise ValueError(f"{port} is no TCP port")
    return host.strip("[]") or None, int(port)


@dataclass(slots=True)
class _Group:
    """Connections of one attachment, as far as they have come."""

    connections: int
    pipes: dict[int, Pipe] = field(default_factory=dict)


class DirectListener:
    """Accepts direct lanes of this node; one per process."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._tasks = Tasks("direct listener")
        self._expected: dict[tuple[UUID, Lane], Arrived] = {}
        self._groups: dict[tuple[UUID, Lane, bytes], _Group] = {}
        self._newcomers = 0

    async def listen(self, address: str) -> int:
        """Listen; the port. Raises OSError, or ValueError for a bad address."""
        host, port = split_address(address)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Pipe(PREFACE_BYTES, self._on_connection), host, port)
        return int(self._server.sockets[0].getsockname()[1])

    def expect(self, port_id: UUID, lane: Lane, arrived: Arrived) -> Callable[[], None]:
        """From now on give this lane's connections to `arrived`, which then owns them; what is returned ends that."""
        key = (port_id, lane)
        self._expected[key] = arrived

        def forget() -> None:
            if self._expected.get(key) is arrived:
                del self._expected[key]

        return forget

    async def close(self) -> None:
        """Stop listening; lanes that are connected belong to their owners. Idempotent."""
        if self._server is not None:
            self._server.close()
        await self._tasks.close()

    def _on_connection(self, pipe: Pipe) -> None:
        if self._newcomers >= MAX_NEWCOMERS:
            pipe.abort()
            return
        self._newcomers += 1
        self._tasks.spawn(self._welcome(pipe), name="newcomer")

    async def _welcome(self, pipe: Pipe) -> None:
        try:
            async with asyncio.timeout(PREFACE_WITHIN_S):
                preface = Preface.decode(await pipe.opening())
            if (preface.port_id, preface.lane) not in self._expected:
                raise ValueError("no such lane is expected")
            pipe.write(ACCEPTED)
            self._join(preface, pipe)
        except (LinkDown, ValueError, TimeoutError) as error:
            log.debug("direct connection rejected", reason=str(error) or type(error).__name__)
            pipe.abort()
        finally:
            self._newcomers -= 1

    def _join(self, preface: Preface, pipe: Pipe) -> None:
        key = (preface.port_id, preface.lane, preface.attachment)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(preface.connections)
            asyncio.get_running_loop().call_later(GROUP_WITHIN_S, self._give_up, key, group)
        if preface.number in group.pipes or preface.connections != group.connections:
            raise ValueError(f"connection {preface.number} of its group came twice")
        group.pipes[preface.number] = pipe
        if len(group.pipes) < group.connections:
            return
        del self._groups[key]
        arrived = self._expected.get((preface.port_id, preface.lane))
        if arrived is None:
            for each in group.pipes.values():
                each.abort()
        else:
            arrived(DirectConnection(list(group.pipes.values())))

    def _give_up(self, key: tuple[UUID, Lane, bytes], group: _Group) -> None:
        """A group that is complete has left the table."""
        if self._groups.get(key) is group:
            del self._groups[key]
            for pipe in group.pipes.values():
                pipe.abort()


class AwaitedWay:
    """The direct way of a lane whose other end connects."""

    def __init__(self, listener: DirectListener, port_id: UUID, lane: Lane) -> None:
        self._waiting: asyncio.Queue[DirectConnection] = asyncio.Queue()
        self._latest: DirectConnection | None = None
        self._forget = listener.expect(port_id, lane, self._arrived)

    async def connect(self, has_route: HasRoute) -> DirectConnection:  # noqa: ARG002  # only who connects can hurry
        """The next connection to arrive."""
        return await self._waiting.get()

    async def close(self) -> None:
        """Take no more; idempotent."""
        self._forget()
        while not self._waiting.empty():
            await self._waiting.get_nowait().close()

    def _arrived(self, connection: DirectConnection) -> None:
        # The other end connects again only after it has given up the former connection.
        if self._latest is not None:
            self._latest.lose("the other end has connected again")
        self._latest = connection
        self._waiting.put_nowait(connection)


class ConnectingWay:
    """The direct way of a lane whose other end can be connected to."""

    def __init__(
        self,
        addresses: Sequence[str],
        port_id: UUID,
        lane: Lane,
        *,
        connections: int = 1,
        within_s: float = 1.0,
        retry_s: float = 15.0,
    ) -> None:
        self._addresses = tuple(addresses)
        self._port_id = port_id
        self._lane = lane
        self._connections = connections
        self._within_s = within_s
        self._backoff = Backoff(min_s=1.0, max_s=max(1.0, retry_s))
        self._failures = 0
        self._connected_s: float | None = None

    async def connect(self, has_route: HasRoute) -> DirectConnection:
        """Try until there is one, at growing intervals; they stay short while the lane has no other route."""
        loop = asyncio.get_running_loop()
        if self._connected_s is not None and loop.time() - self._connected_s < _SHORT_LIFE_S:
            self._failures += 1
        while True:
            if self._failures:
                await self._pause(self._backoff.delay_s(self._failures, random.random()), has_route)  # noqa: S311  # jitter
            try:
                connection = await connect_direct(
                    self._addresses, self._port_id, self._lane, connections=self._connections, within_s=self._within_s
                )
            except LinkDown as error:
                self._failures += 1
                log.info("direct route not available", lane=str(self._lane), reason=error.reason)
                continue
            if self._connected_s is None or loop.time() - self._connected_s >= _SHORT_LIFE_S:
                self._failures = 0
            self._connected_s = loop.time()
            return connection

    async def _pause(self, pause_s: float, has_route: HasRoute) -> None:
        """Wait, in pieces: the other route may be lost meanwhile."""
        while pause_s > 0:
            piece_s = min(pause_s, DOWN_RETRY_S)
            await asyncio.sleep(piece_s)
            pause_s = pause_s - piece_s if has_route() else 0.0

    async def close(self) -> None:
        """Nothing is held."""


async def connect_direct(
    addresses: Sequence[str], port_id: UUID, lane: Lane, *, connections: int = 1, within_s: float
) -> DirectConnection:
    """The first of these addresses that takes the lane. Raises LinkDown, within the time, naming what each said."""
    findings = []
    try:
        async with asyncio.timeout(within_s):
            for address in addresses:
                try:
                    return await _connect_group(address, port_id, lane, connections)
                except LinkDown as error:
                    findings.append(f"{address}: {error.reason}")
                except (OSError, ValueError) as error:
                    findings.append(f"{address}: {error}")
    except TimeoutError:
        findings.append(f"no answer within {within_s:.1f} s")
    raise LinkDown("; ".join(findings) or "no address to connect to")


async def _connect_group(address: str, port_id: UUID, lane: Lane, connections: int) -> DirectConnection:
    loop = asyncio.get_running_loop()
    attachment = secrets.token_bytes(16)
    pipes: list[Pipe] = []
    try:
        host, port = split_address(address)
        for number in range(connections):
            _, pipe = await loop.create_connection(lambda: Pipe(len(ACCEPTED)), host or "localhost", port)
            pipes.append(pipe)
            pipe.write(Preface(port_id, lane, number, connections, attachment).encode())
        for pipe in pipes:
            if await pipe.opening() != ACCEPTED:
                raise ValueError("it does not answer as a node agent")
    except BaseException:
        for pipe in pipes:
            pipe.abort()
        raise
    return DirectConnection(pipes)
