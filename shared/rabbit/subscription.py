"""One queue's deliveries to one consumer, kept up across reconnects and restarts of RabbitMQ. Knows no message."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

from aiormq.abc import AbstractChannel, DeliveredMessage

from shared.backoff import Backoff
from shared.config import BusSettings
from shared.consumer import Consumer, Delivery
from shared.logs import get_logger
from shared.rabbit.connection import LOST, RabbitConnection, raise_if_cancelled
from shared.tasks import first_of

log = get_logger(__name__)

SETUP_TIMEOUT_S = 15.0
"""For the few calls that subscribe."""

Prepare = Callable[[AbstractChannel], Awaitable[str]]
"""Makes sure that there is something to consume, and returns the queue. Raises one of `LOST`."""


@dataclass(frozen=True, slots=True)
class Token:
    """What names a delivery on its channel."""

    channel: AbstractChannel
    tag: int
    exchange: str


class Subscription:
    """Subscribes again and again while `run` runs."""

    def __init__(self, connection: RabbitConnection, settings: BusSettings, prepare: Prepare) -> None:
        self._connection = connection
        self._settings = settings
        self._prepare = prepare
        self._wanted = False
        self._why_not = "not subscribed yet"
        self.active = asyncio.Event()
        """Set while RabbitMQ delivers."""

    async def run(self, new_consumer: Callable[[], Consumer[Token]]) -> None:
        """Deliver until cancelled; each subscription has a new consumer."""
        self._wanted = True
        backoff = Backoff(self._settings.reconnect_min_s, self._settings.reconnect_max_s)
        failures = 0
        try:
            while True:
                try:
                    await self._subscribed(new_consumer())
                    failures = 0
                    self._why_not = "RabbitMQ ended the subscription"
                except LOST as error:
                    raise_if_cancelled()
                    self._why_not = f"{error}" or type(error).__name__
                failures += 1
                log.warning("not consuming", connection=self._connection.purpose, reason=self._why_not)
                await asyncio.sleep(backoff.delay_s(failures, random.random()))  # noqa: S311  # jitter
        finally:
            self._why_not = "the consumer was stopped"
            self._wanted = False

    def problem(self) -> str | None:
        """Why nothing is delivered although it is to be; None when all is well."""
        if not self._wanted or self.active.is_set():
            return None
        return self._why_not if self._connection.is_up else self._connection.why_down

    async def _subscribed(self, consumer: Consumer[Token]) -> None:
        """One subscription, from its start to its loss. Raises one of `LOST`."""
        channel = await self._connection.open_channel(confirms=False)
        ended = asyncio.Event()
        channel.closing.add_done_callback(lambda _: ended.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: ended.set())
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                queue = await self._prepare(channel)
                await channel.basic_qos(prefetch_count=self._settings.prefetch)
                await channel.basic_consume(queue, _feeding(consumer, channel))
            self.active.set()
            log.info("consuming", queue=queue)
            await first_of(consumer.run(), ended.wait())
        finally:
            self.active.clear()
            await close_quietly(channel)


def _feeding(
    consumer: Consumer[Token], channel: AbstractChannel
) -> Callable[[DeliveredMessage], Coroutine[object, object, None]]:
    async def feed(message: DeliveredMessage) -> None:
        properties = message.header.properties
        consumer.deliver(
            Delivery(
                body=message.body,
                user_id=properties.user_id,
                message_id=properties.message_id,
                token=Token(channel, message.delivery_tag or 0, message.exchange or ""),
            )
        )

    return feed


async def close_quietly(channel: AbstractChannel) -> None:
    """Close a channel, also one that is lost already; bounded."""
    try:
        async with asyncio.timeout(2.0):
            await channel.close()
    except LOST:
        log.debug("channel did not close cleanly")
