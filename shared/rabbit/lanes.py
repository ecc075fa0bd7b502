"""The relay's part of lanes: the broker makes and removes a port's queues, node agents send and receive frames there.

Owns no lane protocol: frames may be lost here (no confirms, transient, no acknowledgement), never reordered within one
attachment. Urgent, bulk and network extensions have connections of their own, and so have sending and receiving: a
memory alarm stops senders only, and a libvirt call, an NBD reply, a page request or a guest's packet does not queue
behind megabytes of memory.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from uuid import UUID

import aio_pika
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.abc import AbstractChannel, DeliveredMessage

from shared.backoff import Backoff
from shared.bus import BusDown, LaneEnds
from shared.config import BusSettings
from shared.logs import get_logger
from shared.metrics import BusMetrics
from shared.parties import Party
from shared.rabbit.connection import LOST, RabbitConnection, raise_if_cancelled
from shared.topology import Lane, Topology, lane_exchange, lane_queue, lane_topology

log = get_logger(__name__)

ADMIN_TIMEOUT_S = 15.0
ATTACH_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 2.0
RECEIVE_BUFFER_BYTES = 64 * 1024 * 1024
"""More than any window. What overflows it is dropped, as a lossy route may: only a peer that breaks its window."""

URGENT, BULK, EXTENSION = "urgent", "bulk", "extension"
"""What a connection is for, as metrics and logs name it."""

E = TypeVar("E", bound=Exception)


class RabbitLaneAdmin:
    """The broker's right to make and remove lanes; implements `shared.bus.LaneAdmin`."""

    def __init__(self, settings: BusSettings, metrics: BusMetrics) -> None:
        self._connection = RabbitConnection(settings, "lane admin", metrics=metrics)

    async def open_lanes(self, ends: LaneEnds) -> None:
        """Declare exchanges and queues of a port's lanes, both directions; idempotent. Raises `BusDown`."""
        await self._do(ends, self._declare, lane_topology(ends))

    async def close_lanes(self, ends: LaneEnds) -> None:
        """Remove them with whatever they hold; idempotent. Raises `BusDown`."""
        await self._do(ends, self._delete, lane_topology(ends))

    async def open_extension(self, ends: LaneEnds) -> None:
        """Declare the lane of a network extension, both directions; idempotent. Raises `BusDown`."""
        await self._do(ends, self._declare, lane_topology(ends, (Lane.EXTENSION,)))

    async def close_extension(self, ends: LaneEnds) -> None:
        """Remove it with whatever it holds; idempotent. Raises `BusDown`."""
        await self._do(ends, self._delete, lane_topology(ends, (Lane.EXTENSION,)))

    async def close(self) -> None:
        """Leave RabbitMQ; idempotent."""
        await self._connection.close()

    async def _do(
        self, ends: LaneEnds, work: Callable[[AbstractChannel, Topology], Awaitable[None]], topology: Topology
    ) -> None:
        try:
            async with asyncio.timeout(ADMIN_TIMEOUT_S):
                channel = await self._connection.open_channel(confirms=False)
                try:
                    await work(channel, topology)
                finally:
                    await channel.close()
        except LOST as error:
            if not self._connection.is_up:
                raise self._connection.down() from error
            raise BusDown(f"RabbitMQ did not carry out the change of port {ends.port_id}'s lanes: {error}") from error

    @staticmethod
    async def _declare(channel: AbstractChannel, topology: Topology) -> None:
        for exchange in topology.exchanges:
            await channel.exchange_declare(exchange.name, exchange_type="fanout", durable=True)
        for queue in topology.queues:
            await channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
        for binding in topology.bindings:
            await channel.queue_bind(binding.queue, binding.exchange)

    @staticmethod
    async def _delete(channel: AbstractChannel, topology: Topology) -> None:
        for queue in topology.queues:
            await channel.queue_delete(queue.name)
        for exchange in topology.exchanges:
            await channel.exchange_delete(exchange.name)


class RabbitLanes(Generic[E]):
    """A node agent's access to the relay: the connections that all its lanes share.

    ``link_down`` makes the error that a link raises while its route is away, from the reason; the lanes name its type.
    """

    def __init__(self, settings: BusSettings, metrics: BusMetrics, *, link_down: Callable[[str], E]) -> None:
        self._settings = settings
        self._link_down = link_down
        self._connections = {
            (use, sending): RabbitConnection(
                settings, f"lane {use} {'send' if sending else 'receive'}", metrics=metrics
            )
            for use in (URGENT, BULK, EXTENSION)
            for sending in (False, True)
        }

    def link(
        self, port_id: UUID, lane: Lane, peer: Party, *, sends_bulk: bool = True, receives_bulk: bool = True
    ) -> RabbitLaneLink[E]:
        """One lane's route to the node agent at its other end. It attaches in `RabbitLaneLink.wait_up`.

        A direction that is not bulk shares no connection with bulk of whatever port. Extensions share theirs with
        extensions only.
        """
        me = self._settings.party
        sends, receives = (BULK if bulk else URGENT for bulk in (sends_bulk, receives_bulk))
        if lane is Lane.EXTENSION:
            sends = receives = EXTENSION
        return RabbitLaneLink(
            sending=self._connections[sends, True],
            receiving=self._connections[receives, False],
            exchange=lane_exchange(port_id, lane, me),
            queue=lane_queue(port_id, lane, me),
            peer=peer,
            link_down=self._link_down,
            backoff=Backoff(self._settings.reconnect_min_s, self._settings.reconnect_max_s),
        )

    async def close(self) -> None:
        """Leave RabbitMQ; idempotent."""
        for connection in self._connections.values():
            await connection.close()


class RabbitLaneLink(Generic[E]):
    """Both directions of one lane over RabbitMQ; fits the lanes' ``LaneLink``."""

    def __init__(
        self,
        *,
        sending: RabbitConnection,
        receiving: RabbitConnection,
        exchange: str,
        queue: str,
        peer: Party,
        link_down: Callable[[str], E],
        backoff: Backoff,
    ) -> None:
        self._sending = sending
        self._receiving = receiving
        self._exchange = exchange
        self._queue = queue
        self._peer = peer
        self._link_down = link_down
        self._backoff = backoff
        self._attachment: _Attachment | None = None
        self._attaching = asyncio.Lock()
        self._why_down = "not attached yet"
        self._closed = False

    async def send(self, frame: bytes) -> None:
        """Hand one frame to RabbitMQ; waits while it takes none. Raises the lanes' LinkDown."""
        attachment = self._usable()
        try:
            await attachment.send(self._exchange, frame)
        except LOST as error:
            raise_if_cancelled()
            raise self._down(f"{error}") from error
        except asyncio.CancelledError:
            # A dying channel cancels what waits on it; then nobody asked this task to end.
            raise_if_cancelled()
            raise self._down("the channel was lost") from None

    async def receive(self) -> bytes:
        """The next frame. Raises the lanes' LinkDown, also when the route breaks during the wait."""
        attachment = self._usable()
        frame = await attachment.receive()
        if frame is None:
            raise self._down(attachment.why_lost)
        return frame

    async def wait_up(self) -> None:
        """Return once both directions are attached; tries again and again, the caller bounds it."""
        failures = 0
        async with self._attaching:
            while self._attachment is None or self._attachment.lost:
                if self._closed:
                    raise self._link_down("the link was closed")
                try:
                    await self._attach()
                except (*LOST, asyncio.CancelledError) as error:
                    # A dying connection cancels what waits on it; then nobody asked this task to end.
                    raise_if_cancelled()
                    failures += 1
                    self._why_down = f"{error}" or "no answer in time"
                    # Missing queues are how a port begins and ends: the broker makes and removes them.
                    say = log.debug if isinstance(error, ChannelNotFoundEntity) else log.info
                    say("lane not attached", queue=self._queue, peer=str(self._peer), reason=self._why_down)
                    await asyncio.sleep(self._backoff.delay_s(failures, random.random()))  # noqa: S311  # jitter

    async def close(self) -> None:
        """Detach; idempotent."""
        self._closed = True
        await self._detach("the link was closed")

    def _usable(self) -> _Attachment:
        if self._attachment is None or self._attachment.lost:
            raise self._down(self._attachment.why_lost if self._attachment else self._why_down)
        return self._attachment

    def _down(self, reason: str) -> E:
        self._why_down = reason
        if self._attachment is not None:
            self._attachment.lose(reason)
        return self._link_down(reason)

    async def _detach(self, reason: str) -> None:
        attachment, self._attachment = self._attachment, None
        self._why_down = reason
        if attachment is not None:
            attachment.lose(reason)
            await attachment.close()

    async def _attach(self) -> None:
        await self._detach("the lane attaches again")
        outward = await self._sending.open_channel(confirms=False)
        try:
            inward = await self._receiving.open_channel(confirms=False)
        except BaseException:
            await _close_quietly(outward)
            raise
        attachment = _Attachment(outward, inward)
        try:
            async with asyncio.timeout(ATTACH_TIMEOUT_S):
                await outward.exchange_declare(self._exchange, passive=True)
                # Exclusive: a former attachment whose connection is half dead must not take every other frame.
                await inward.basic_consume(self._queue, attachment.arrived, no_ack=True, exclusive=True)
        except BaseException:
            attachment.lose("not attached")
            await attachment.close()
            raise
        self._attachment = attachment


class _Attachment:
    """Two channels and what came in, until the first of them is lost."""

    def __init__(self, outward: AbstractChannel, inward: AbstractChannel) -> None:
        self._outward = outward
        self._inward = inward
        self._frames: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._changed = asyncio.Event()
        # One object for all frames: the relay needs nothing but the mode, and aiormq would draw an id for each.
        self._properties = aio_pika.Message(
            b"", delivery_mode=aio_pika.DeliveryMode.NOT_PERSISTENT, message_id="frame"
        ).properties
        self.lost = False
        self.why_lost = ""
        outward.closing.add_done_callback(lambda closing: self.lose(_reason("sending", closing)))
        inward.closing.add_done_callback(lambda closing: self.lose(_reason("receiving", closing)))
        inward.on_consumer_cancel_callbacks.add(lambda _: self.lose("the lane's queue was removed"))

    def lose(self, reason: str) -> None:
        """The route is away from now on."""
        if not self.lost:
            self.lost = True
            self.why_lost = reason
        self._changed.set()

    async def send(self, exchange: str, frame: bytes) -> None:
        await self._outward.basic_publish(frame, exchange=exchange, properties=self._properties)

    async def arrived(self, message: DeliveredMessage) -> None:
        if self._buffered_bytes + len(message.body) > RECEIVE_BUFFER_BYTES:
            return
        self._frames.append(message.body)
        self._buffered_bytes += len(message.body)
        self._changed.set()

    async def receive(self) -> bytes | None:
        """The next frame, or None when the route is away."""
        while not self._frames:
            if self.lost:
                return None
            self._changed.clear()
            await self._changed.wait()
        frame = self._frames.popleft()
        self._buffered_bytes -= len(frame)
        return frame

    async def close(self) -> None:
        for channel in (self._outward, self._inward):
            await _close_quietly(channel)


async def _close_quietly(channel: AbstractChannel) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await channel.close()
    except (*LOST, asyncio.CancelledError) as error:
        raise_if_cancelled()  # else the dying connection has cancelled it
        log.debug("lane's channel did not close cleanly", error=str(error))


def _reason(name: str, closing: asyncio.Future[object]) -> str:
    if closing.cancelled():
        return f"the {name} channel was lost"
    error = closing.exception()
    return f"the {name} channel was lost: {error}" if error else f"the {name} channel was closed"
