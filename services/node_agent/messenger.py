"""How this node sends messages: durably through the outbox, or at once if the bus is there. Seals; decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

from services.node_agent.state.outbox import Outbox
from shared.bus import Bus
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.base import PortMessage
from shared.messages.porting import Side
from shared.parties import BROKER, Party, donor, recipient


class Messenger:
    """Sends one node's messages."""

    def __init__(self, bus: Bus, outbox: Outbox, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._bus = bus
        self._outbox = outbox
        self._now = now

    @property
    def provider(self) -> str:
        """This node's provider."""
        return self._bus.party.owner

    def agent(self, side: Side) -> Party:
        """The agent of this provider that a transfer belongs to."""
        return donor(self.provider) if side is Side.OUTBOUND else recipient(self.provider)

    def enqueue(self, to: Party, message: Message, cause: AnyEnvelope | None = None) -> None:
        """Store a message in the outbox; it will arrive. Raises OSError."""
        self._outbox.store(to, self._sealed(message, cause))

    async def publish(self, to: Party, message: Message) -> None:
        """Publish now. Raises `BusDown` or `Undeliverable`."""
        await self._bus.publish(to, self._sealed(message, None))

    async def publish_to_broker(self, message: PortMessage) -> None:
        """As `publish`, to the broker."""
        await self.publish(BROKER, message)

    async def publish_to_broker_as(self, message: PortMessage, message_id: UUID) -> None:
        """As `publish`, to the broker, under an id by which the answer is known."""
        sealed = seal(message, source=self._bus.party, message_id=message_id, now=self._now())
        await self._bus.publish(BROKER, sealed)

    def _sealed(self, message: Message, cause: AnyEnvelope | None) -> AnyEnvelope:
        return seal(message, source=self._bus.party, message_id=uuid4(), now=self._now(), cause=cause)
