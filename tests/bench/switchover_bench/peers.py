"""One party's connection to RabbitMQ, as lean as possible: what is measured is the broker, not its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from pamqp.commands import Basic

from shared.messages import CONTENT_TYPE
from shared.parties import BROKER, Party
from shared.tasks import Tasks
from shared.topology import inbox_queue, to_exchange

PREFETCH = 200


@dataclass(frozen=True, slots=True)
class Post:
    """A message that waits to be published to the broker."""

    type: str
    body: bytes
    message_id: UUID
    conversation: UUID
    exchange: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that came in."""

    to: Party
    kind: str
    port: UUID | None
    body: bytes


class Peer:
    """Publishes to the broker and hears its own inbox; messages of one peer keep their order."""

    def __init__(self, party: Party, url: str, hear: Callable[[Heard], None]) -> None:
        self.party = party
        self._url = url
        self._hear = hear
        self._out: asyncio.Queue[Post] = asyncio.Queue()
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def connect(self, tasks: Tasks) -> None:
        """Connect, consume, and publish in the background."""
        self._connection = await aiormq.connect(self._url)
        self._channel = await self._connection.channel(publisher_confirms=False)
        await self._channel.basic_qos(prefetch_count=PREFETCH)
        await self._channel.basic_consume(inbox_queue(self.party), self._arrived)
        tasks.spawn(self._publish(self._channel), name=f"{self.party} publishes")

    async def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            await self._connection.close()

    def say(self, kind: str, body: bytes, *, message_id: UUID, port: UUID, exchange: str = "") -> None:
        """Publish as soon as the event loop comes to it."""
        self._out.put_nowait(Post(kind, body, message_id, port, exchange or to_exchange(BROKER)))

    def report(self, kind: str, body: bytes) -> None:
        """Publish what is about no port."""
        self.say(kind, body, message_id=uuid4(), port=uuid4())

    async def _publish(self, channel: AbstractChannel) -> None:
        while True:
            post = await self._out.get()
            properties = Basic.Properties(
                content_type=CONTENT_TYPE,
                delivery_mode=2,
                message_id=str(post.message_id),
                correlation_id=str(post.conversation),
                message_type=post.type,
                timestamp=datetime.now(UTC),
                user_id=str(self.party),
                app_id="vmport",
            )
            await channel.basic_publish(post.body, exchange=post.exchange, routing_key="", properties=properties)

    async def _arrived(self, message: DeliveredMessage) -> None:
        properties = message.header.properties
        port = UUID(properties.correlation_id) if properties.correlation_id else None
        kind = (properties.message_type or "").removeprefix("vmport.")
        self._hear(Heard(self.party, kind, port, bytes(message.body)))
        if self._channel is not None:
            await self._channel.basic_ack(message.delivery_tag or 0, wait=False)
