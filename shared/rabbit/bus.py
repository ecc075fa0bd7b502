"""RabbitMQ as a `Bus`: publishing with confirms, consuming with acknowledgement after the effect, dead letters.

Publishing and consuming have a connection each: a memory alarm blocks whole connections that publish, and must not stop
what would empty the queues. Nothing is declared (a party has no right to): a missing queue is reported and asked for
again. What is done with a delivery is in `shared.consumer`, tenants' sessions are in `shared.rabbit.session`, lanes in
`shared.rabbit.lanes`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from uuid import uuid4

import aio_pika
from aio_pika.exceptions import ChannelClosed, DeliveryError, PublishError
from aiormq.abc import AbstractChannel, DeliveredMessage

from shared.backoff import Backoff
from shared.bus import BusDown, DeadLetter, Handler, Undeliverable
from shared.config import BusSettings
from shared.consumer import Consumer, Delivery
from shared.errors import VmportError
from shared.logs import get_logger
from shared.messages import CONTENT_TYPE, AnyEnvelope
from shared.metrics import BusMetrics
from shared.parties import Party
from shared.rabbit.connection import LOST, RabbitConnection, raise_if_cancelled
from shared.tasks import first_of
from shared.topology import dead_exchange, dead_queue, inbox_queue, to_exchange

log = get_logger(__name__)

SETUP_TIMEOUT_S = 15.0
"""For the few calls that subscribe."""


RETRY_AFTER_S = 0.05
"""A channel that broke under a publish is replaced after this."""


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


@dataclass(frozen=True, slots=True)
class _Token:
    """What names a delivery on its channel."""

    channel: AbstractChannel
    tag: int
    exchange: str


class RabbitBus:
    """One party's access to RabbitMQ: a `shared.bus.Bus`. Connects in the background, from its first use on."""

    def __init__(self, settings: BusSettings, metrics: BusMetrics) -> None:
        self._settings = settings
        self._party = settings.party
        self._metrics = metrics
        self._publishing = RabbitConnection(settings, "publish", metrics=metrics)
        self._consuming = RabbitConnection(settings, "consume", metrics=metrics)
        self._publisher = Publisher(self._publishing, timeout_s=settings.publish_timeout_s)
        self._wants_to_consume = False
        self._not_consuming = "not subscribed yet"
        self.consuming = asyncio.Event()
        """Set while RabbitMQ delivers to this consumer."""

    @property
    def party(self) -> Party:
        """Who speaks here."""
        return self._party

    def start(self) -> None:
        """Begin to connect, before the first message is to go out."""
        self._publishing.start()
        self._consuming.start()

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
            await self._publisher.publish(to_exchange(to), message)
        except NotStored as error:
            self._metrics.publish_failures_total.labels(Undeliverable.code).inc()
            raise Undeliverable(to, str(error)) from error
        except BusDown:
            self._metrics.publish_failures_total.labels(BusDown.code).inc()
            raise
        self._metrics.messages_published_total.labels(kind).inc()

    async def consume(
        self, handler: Handler, *, on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None
    ) -> None:
        """Deliver this party's inbox to ``handler`` until cancelled, across reconnects and restarts of RabbitMQ."""
        self._wants_to_consume = True
        backoff = Backoff(self._settings.reconnect_min_s, self._settings.reconnect_max_s)
        failures = 0
        try:
            while True:
                consumer = Consumer(
                    party=self._party, handler=handler, settle=self, metrics=self._metrics, on_dead=on_dead
                )
                try:
                    await self._subscribed(consumer)
                    failures = 0
                    self._not_consuming = "RabbitMQ ended the subscription"
                except LOST as error:
                    raise_if_cancelled()
                    self._not_consuming = f"{error}" or type(error).__name__
                failures += 1
                log.warning("not consuming", queue=self._source(), reason=self._not_consuming)
                await asyncio.sleep(backoff.delay_s(failures, random.random()))  # noqa: S311  # jitter
        finally:
            self._not_consuming = "the consumer was stopped"
            self._wants_to_consume = False

    async def _subscribed(self, consumer: Consumer[_Token]) -> None:
        """One subscription, from its start to its loss. Raises one of `LOST`."""
        channel = await self._consuming.open_channel(confirms=False)
        ended = asyncio.Event()
        channel.closing.add_done_callback(lambda _: ended.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: ended.set())
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                queue = await self._prepare(channel)
                await channel.basic_qos(prefetch_count=self._settings.prefetch)
                await channel.basic_consume(queue, _feeding(consumer, channel))
            self.consuming.set()
            log.info("consuming", queue=queue)
            await first_of(consumer.run(), ended.wait())
        finally:
            self.consuming.clear()
            await _close_quietly(channel)

    def _source(self) -> str:
        """The queue that is consumed."""
        return inbox_queue(self._party)

    async def _prepare(self, channel: AbstractChannel) -> str:
        """Make sure that there is something to consume; returns the queue. Raises one of `LOST`."""
        await channel.queue_declare(self._source(), passive=True)
        return self._source()

    async def acknowledge(self, token: _Token) -> None:
        """Forget a delivery. Raises one of `LOST` when its channel is gone; then it comes again."""
        await token.channel.basic_ack(token.tag, wait=False)

    async def bury(self, token: _Token, letter: DeadLetter) -> None:
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
        if not self._wants_to_consume or self.consuming.is_set():
            return None
        return f"consume: {self._not_consuming if self._consuming.is_up else self._consuming.why_down}"

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
                await _close_quietly(channel)
        except LOST as error:
            raise self._publishing.down() from error

    async def measure_queues(self) -> None:
        """Show how many messages are ready in this party's own queues. Raises one of `LOST`."""
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            channel = await self._consuming.open_channel(confirms=False)
            try:
                for name, queue in (("inbox", inbox_queue(self._party)), ("dead", dead_queue(self._party))):
                    declared = await channel.queue_declare(queue, passive=True)
                    self._metrics.queue_messages.labels(name).set(declared.message_count or 0)
            finally:
                await _close_quietly(channel)

    async def close(self) -> None:
        """Leave the bus; idempotent."""
        await self._publishing.close()
        await self._consuming.close()


def _feeding(
    consumer: Consumer[_Token], channel: AbstractChannel
) -> Callable[[DeliveredMessage], Coroutine[object, object, None]]:
    async def feed(message: DeliveredMessage) -> None:
        properties = message.header.properties
        consumer.deliver(
            Delivery(
                body=message.body,
                user_id=properties.user_id,
                message_id=properties.message_id,
                token=_Token(channel, message.delivery_tag or 0, message.exchange or ""),
            )
        )

    return feed


async def _close_quietly(channel: AbstractChannel) -> None:
    try:
        async with asyncio.timeout(2.0):
            await channel.close()
    except LOST:
        log.debug("channel did not close cleanly")
