"""The bus port: what a service may expect of a message bus. Pure interface and the rule of belief; knows no AMQP.

`shared.rabbit.bus` is the real bus, `shared.testing` the in-memory one; `tests/contract/test_bus.py` tests both.

* ``publish`` returns when the message is stored by the bus (confirmed), or raises; it never loses silently.
* ``consume`` delivers at least once, in order per inbox while nothing fails. A message is acknowledged after the
  handler returned. A handler that raises gets the message again, with a delay, up to the inbox's delivery limit; then
  it goes to the dead letters. `Reject` sends it there at once. What cannot be understood or believed goes there unseen.
* A message whose type is urgent goes to the receiver's urgent inbox, where there is one, and does not wait behind
  others there.
* A handler must be quick: it stores its effect and returns. No delivery is held while a port runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from shared.errors import VmportError
from shared.messages import AnyEnvelope, MessageError
from shared.parties import Party, Role

Handler = Callable[[AnyEnvelope], Awaitable[None]]


class BusDown(VmportError):
    """The bus cannot be reached now; try again later."""

    code = "bus_down"


class Undeliverable(VmportError):
    """The bus knows no inbox for this party, or its inbox is full."""

    code = "undeliverable"

    def __init__(self, to: Party, reason: str) -> None:
        self.to = to
        super().__init__(f"no message can be delivered to {to}: {reason}; check that this party is set up on the bus")


class Reject(VmportError):
    """A handler's verdict: this message can never be acted on. It goes to the dead letters with this reason."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code}: {reason}")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, with the reason."""

    code: str
    reason: str
    body: bytes
    sender: str | None
    """The user that the bus had verified, if any."""
    message_id: str | None = None


class Bus(Protocol):
    """One party's access to the bus."""

    @property
    def party(self) -> Party:
        """Who speaks here."""
        ...

    async def publish(self, to: Party, envelope: AnyEnvelope) -> None:
        """Store a message in a party's inbox; raises `BusDown` or `Undeliverable`."""
        ...

    async def consume(
        self,
        handler: Handler,
        *,
        on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None,
    ) -> None:
        """Deliver this party's inbox to ``handler`` until cancelled, across reconnects.

        ``on_dead`` hears of each dead letter that this consumer made (to count it, to tell the sender).
        """
        ...

    async def ready(self) -> bool:
        """Whether the bus is connected now."""
        ...

    async def close(self) -> None:
        """Leave the bus; idempotent."""
        ...


class UrgentBus(Bus, Protocol):
    """The access of a party that has an urgent inbox beside the ordinary one: the broker's."""

    async def consume_urgent(
        self,
        handler: Handler,
        *,
        on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None,
    ) -> None:
        """Deliver the urgent inbox, as `consume` does the ordinary one; both run side by side."""
        ...


class Session(Bus, Protocol):
    """A tenant's short visit: hears what is sent to the tenant while it is there, and leaves nothing behind.

    What was sent while the bus was away is not heard; `wait_listening` tells, and the broker can be asked.
    """

    async def wait_listening(self) -> int:
        """Return once messages are heard (after `consume` was called), with how many times that began. Unbounded."""
        ...


@dataclass(frozen=True, slots=True)
class LaneEnds:
    """The two node agents between which a port's lanes run."""

    port_id: UUID
    donor_node: Party
    recipient_node: Party


class LaneAdmin(Protocol):
    """The broker's right to make and remove the relay's queues of one port."""

    async def open_lanes(self, ends: LaneEnds) -> None:
        """Declare exchanges and queues of the lanes that every port has, both directions; idempotent."""
        ...

    async def close_lanes(self, ends: LaneEnds) -> None:
        """Remove them with whatever they hold; idempotent."""
        ...

    async def open_extension(self, ends: LaneEnds) -> None:
        """Declare the lane of a port's network extension, both directions; idempotent."""
        ...

    async def close_extension(self, ends: LaneEnds) -> None:
        """Remove it with whatever it holds; idempotent."""
        ...


def believe(envelope: AnyEnvelope, *, verified_user: str | None, receiver: Party) -> None:
    """Raise `MessageError` unless this message is to be believed.

    The bus must have verified the sender (``unproven_sender``), the envelope must name that sender (``forged_sender``),
    and the type must be one that this role may say to that role (``wrong_role``).
    """
    if not verified_user:
        raise MessageError("unproven_sender", "the message carries no user_id, which the bus would have verified")
    if envelope.source != verified_user:
        raise MessageError("forged_sender", f"the envelope says {envelope.source}, the bus verified {verified_user}")
    kind = type(envelope.data)
    sender = envelope.sender
    if sender.role not in kind.SENDERS or receiver.role not in kind.RECEIVERS:
        raise MessageError("wrong_role", f"{sender} may not send {kind.__name__} to {receiver}")
    inside_provider = {Role.NODE, Role.DONOR, Role.RECIPIENT}
    if sender.role in inside_provider and receiver.role in inside_provider and sender.owner != receiver.owner:
        raise MessageError("wrong_provider", f"{sender} belongs to another provider than {receiver}")
