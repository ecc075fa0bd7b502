"""RabbitMQ as a `Bus`: publishing with confirms, consuming with acknowledgement after the effect, dead letters.

Publishing and consuming have a connection each: a memory alarm blocks whole connections that publish, and must not stop
what would empty the queues. Nothing is declared (a party has no right to): a missing queue is reported and asked for
again. What is done with a delivery is in `shared.consumer`, tenants' sessions are in `shared.rabbit.session`, lanes in
`shared.rabbit.lanes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import aio_pika
from aio_pika.exceptions import ChannelClosed, DeliveryError, PublishError
from aiormq.abc import AbstractChannel

from shared.bus import BusDown, DeadLetter, Handler, Undeliverable
from shared.config import BusSettings
from shared.consumer import Consumer
from shared.errors import VmportError
from shared.logs import get_logger
from shared.messages import CONTENT_TYPE, AnyEnvelope, Message
from shared.metrics import BusMetrics
from shared.parties import Party
from shared.rabbit.connection import LOST, RabbitConnection, raise_if_cancelled
from shared.rabbit.subscription import SETUP_TIMEOUT_S, Subscription, Token, close_quietly
from shared.topology import (
    dead_exchange,
    dead_queue,
    exchange_for,
    has_urgent_inbox,
    inbox_queue,
    to_exchange,
    urgent_queue,
)

log = get_logger(__name__)

RETRY_AFTER_S = 0.05
"""A channel that broke under a publish is replaced after this."""


ROUNDABOUT_S = 60.0
"""An urgent exchange that is missing or full is tried again after this; a missing one costs the channel each time."""


class NotStored(VmportError):
    """RabbitMQ took the message and did not store it; publishing it again at once is of no use."""

    code = "not_stored"


class Publisher:
    """Publishes with confirms, mandatory, over one channel that is replaced when it dies. Calls are pipelined."""

    def __init__(self, connection: RabbitConnection, *, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._under_way: dict[str, asyncio.Event] = {}

    async def publish(self, exchange: str, message: aio_pika.Message) -> None:
        """Returns when RabbitMQ has stored it. The message needs an id.

        Raises `NotStored`, or `BusDown` when no confirm came in time: then it may have been stored all the same.
        """
        try:
            async with asyncio.timeout(self._timeout_s), _Turn(self._under_way, message.message_id or ""):
                stored = await self._attempt(exchange, message)
                while not stored:
                    await asyncio.sleep(RETRY_AFTER_S)
                    stored = await self._attempt(exchange, message)
        except TimeoutError:
            if self._connection.is_up:
                raise BusDown(
                    f"RabbitMQ did not confirm within {self._timeout_s:g} s; it blocks publishers while it is short of "
                    "memory or disk"
                ) from None
            raise self._connection.down() from None

    async def _attempt(self, exchange: str, message: aio_pika.Message) -> bool:
        """Whether it was stored; False when the channel broke, whatever became of the message."""
        try:
            channel = await self._usable_channel()
            await channel.basic_publish(
                message.body, exchange=exchange, routing_key="", properties=message.properties, mandatory=True
            )
        except PublishError:
            raise NotStored("no queue is bound to its exchange") from None
        except DeliveryError:
            raise NotStored("RabbitMQ refused it; the queue is full or cannot store now") from None
        except ChannelClosed as error:
            # One bad exchange closes the channel under every publish on it: only its own is to blame.
            if f"'{exchange}'" in str(error):
                raise NotStored(f"RabbitMQ says: {error}") from None
            return False
        except LOST:
            raise_if_cancelled()
            return False
        except asyncio.CancelledError:
            # A dying connection cancels what waits on it; then nobody asked this task to end.
            raise_if_cancelled()
            return False
        return True

    async def _usable_channel(self) -> AbstractChannel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._connection.open_channel(confirms=True)
            return self._channel


class _Turn:
    """One publish of a message id at a time: RabbitMQ's returns name only the id, and must find the right publish."""

    def __init__(self, under_way: dict[str, asyncio.Event], key: str) -> None:
        self._under_way = under_way
        self._key = key
        self._done = asyncio.Event()

    async def __aenter__(self) -> None:
        while (other := self._under_way.get(self._key)) is not None:
            await other.wait()
        self._under_way[self._key] = self._done

    async def __aexit__(self, *_: object) -> None:
        del self._under_way[self._key]
        self._done.set()


class RabbitBus:
    """One party's access to RabbitMQ: a `shared.bus.Bus`. Connects in the background, from its first use on."""

    def __init__(self, settings: BusSettings, metrics: BusMetrics) -> None:
        self._settings = settings
        self._party = settings.party
        self._metrics = metrics
        self._publishing = RabbitConnection(settings, "publish", metrics=metrics)
        self._consuming = RabbitConnection(settings, "consume", metrics=metrics)
        self._publisher = Publisher(self._publishing, timeout_s=settings.publish_timeout_s)
        self._inbox = Subscription(self._consuming, settings, self._prepare)
        self._express = _Express(settings, metrics) if has_urgent_inbox(settings.party) else None
        self._roundabout: dict[str, float] = {}
        """Urgent exchanges that could not be used, and until when their messages go to the ordinary inbox."""
        self.consuming = self._inbox.active
        """Set while RabbitMQ delivers to this consumer."""

    @property
    def party(self) -> Party:
        """Who speaks here."""
        return self._party

    def start(self) -> None:
        """Begin to connect, before the first message is to go out."""
        self._publishing.start()
        self._consuming.start()
        if self._express is not None:
            self._express.start()

    async def publish(self, to: Party, envelope: AnyEnvelope) -> None:
        """Store a message in a party's inbox; raises `BusDown` or `Undeliverable`."""
        kind = type(envelope.data).__name__
        message = aio_pika.Message(
            envelope.to_json(),
            content_type=CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=str(envelope.id),
            correlation_id=str(envelope.correlationid),
            type=envelope.type,
            timestamp=envelope.time,
            user_id=str(self._party),
            app_id="vmport",
        )
        try:
            await self._route(to, type(envelope.data), message)
        except NotStored as error:
            self._metrics.publish_failures_total.labels(Undeliverable.code).inc()
            raise Undeliverable(to, str(error)) from error
        except BusDown:
            self._metrics.publish_failures_total.labels(BusDown.code).inc()
            raise
        self._metrics.messages_published_total.labels(kind).inc()

    async def _route(self, to: Party, kind: type[Message], message: aio_pika.Message) -> None:
        """Publish to the exchange for this type; one for urgent messages that is missing or full has a way round."""
        exchange = exchange_for(to, kind)
        urgent = kind.URGENT and self._express is not None
        publisher = self._express.publisher if urgent and self._express is not None else self._publisher
        now_s = asyncio.get_running_loop().time()
        if self._roundabout.get(exchange, 0.0) <= now_s:
            try:
                await publisher.publish(exchange, message)
            except NotStored as error:
                if exchange == to_exchange(to):
                    raise
                log.warning("no urgent inbox; the ordinary one is used", to=str(to), error=str(error))
                self._roundabout[exchange] = now_s + ROUNDABOUT_S
            else:
                return
        await publisher.publish(to_exchange(to), message)

    async def consume(
        self, handler: Handler, *, on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None
    ) -> None:
        """Deliver this party's inbox to ``handler`` until cancelled, across reconnects and restarts of RabbitMQ."""
        await self._inbox.run(lambda: self._consumer(handler, on_dead))

    async def consume_urgent(
        self, handler: Handler, *, on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None
    ) -> None:
        """Deliver the urgent inbox beside the ordinary one. Raises ValueError for a party that has none."""
        if self._express is None:
            raise ValueError(f"{self._party} has no urgent inbox")
        await self._express.inbox.run(lambda: self._consumer(handler, on_dead))

    def _consumer(self, handler: Handler, on_dead: Callable[[DeadLetter], Awaitable[None]] | None) -> Consumer[Token]:
        return Consumer(party=self._party, handler=handler, settle=self, metrics=self._metrics, on_dead=on_dead)

    async def _prepare(self, channel: AbstractChannel) -> str:
        """Make sure that there is something to consume; returns the queue. Raises one of `LOST`."""
        queue = inbox_queue(self._party)
        await channel.queue_declare(queue, passive=True)
        return queue

    async def acknowledge(self, token: Token) -> None:
        """Forget a delivery. Raises one of `LOST` when its channel is gone; then it comes again."""
        await token.channel.basic_ack(token.tag, wait=False)

    async def bury(self, token: Token, letter: DeadLetter) -> None:
        """Put a delivery among this party's dead letters, with the reason as headers."""
        message = aio_pika.Message(
            letter.body,
            headers={
                "vmport-code": letter.code,
                "vmport-reason": letter.reason,
                "vmport-sender": letter.sender or "",
                "vmport-exchange": token.exchange,
                "vmport-message-id": letter.message_id or "",
            },
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=uuid4().hex,
            user_id=str(self._party),
            app_id="vmport",
        )
        try:
            await self._publisher.publish(dead_exchange(self._party), message)
        except NotStored as error:
            # The delivery stays where it is until there is a place for dead letters: evidence is not thrown away.
            raise BusDown(f"dead letters of {self._party} cannot be stored: {error}") from error

    async def ready(self) -> bool:
        """Whether the bus is connected now, and consumed if it is to be."""
        return await self.check() is None

    async def check(self) -> str | None:
        """Why the bus is not ready, for a health check; None when it is."""
        if not self._publishing.is_up:
            return f"publish: {self._publishing.why_down}"
        if (problem := self._inbox.problem()) is not None:
            return f"consume: {problem}"
        if self._express is not None and (problem := self._express.inbox.problem()) is not None:
            return f"consume urgent: {problem}"
        return None

    async def wait_up(self, timeout_s: float, *, fail_fast: bool = False) -> None:
        """Return once RabbitMQ has let this party in; raises `BusDown` with the reason when it has not by then.

        ``fail_fast`` is for who will not stay: it raises at once when trying again cannot help (connection refused,
        wrong password, wrong virtual host). A daemon waits: RabbitMQ may only be restarting.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if fail_fast:
                    await self._publishing.wait_answered()
                channel = await self._publishing.open_channel(confirms=False)
                await close_quietly(channel)
        except LOST as error:
            raise self._publishing.down() from error

    async def measure_queues(self) -> None:
        """Show how many messages are ready in this party's own queues. Raises one of `LOST`."""
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            channel = await self._consuming.open_channel(confirms=False)
            try:
                for name, queue in self._own_queues():
                    declared = await channel.queue_declare(queue, passive=True)
                    self._metrics.queue_messages.labels(name).set(declared.message_count or 0)
            finally:
                await close_quietly(channel)

    def _own_queues(self) -> list[tuple[str, str]]:
        named = [("inbox", inbox_queue(self._party)), ("dead", dead_queue(self._party))]
        return named if self._express is None else [*named, ("urgent", urgent_queue(self._party))]

    async def close(self) -> None:
        """Leave the bus; idempotent."""
        await self._publishing.close()
        await self._consuming.close()
        if self._express is not None:
            await self._express.close()


class _Express:
    """The urgent inbox and the way of the answers: connections of their own, so that they wait behind nothing else."""

    def __init__(self, settings: BusSettings, metrics: BusMetrics) -> None:
        self._party = settings.party
        self._publishing = RabbitConnection(settings, "publish urgent", metrics=metrics)
        self._consuming = RabbitConnection(settings, "consume urgent", metrics=metrics)
        self.publisher = Publisher(self._publishing, timeout_s=settings.publish_timeout_s)
        self.inbox = Subscription(self._consuming, settings, self._prepare)

    def start(self) -> None:
        """Begin to connect."""
        self._publishing.start()
        self._consuming.start()

    async def close(self) -> None:
        """Disconnect; idempotent."""
        await self._publishing.close()
        await self._consuming.close()

    async def _prepare(self, channel: AbstractChannel) -> str:
        queue = urgent_queue(self._party)
        await channel.queue_declare(queue, passive=True)
        return queue
