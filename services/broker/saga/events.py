"""The events of a saga: a message, a time that has come, a task that the shell has finished, or an operator's decision.
Plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from shared.messages import Message
from shared.parties import Party

MessageT_co = TypeVar("MessageT_co", bound=Message, covariant=True)


@dataclass(frozen=True, slots=True)
class Heard(Generic[MessageT_co]):
    """A message, and who sent it; the bus has verified the sender.

    A handler names the type that it answers, such as ``Heard[DonorApproved]``; the table registers it for that type.
    """

    sender: Party
    message: MessageT_co


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The deadline of the phase has passed."""

    last_heard: datetime | None = None
    """When the donor's node last reported progress; None if it never did."""


@dataclass(frozen=True, slots=True)
class WakeUp:
    """The phase's ``wake_at`` has come: the window opens, seeding may begin, or a question must be repeated."""


@dataclass(frozen=True, slots=True)
class RuleDue:
    """The time of a duty by a rule has come; it may be long after the port's end."""

    ported_at: datetime | None = None
    """When the VM's owner last changed, if that was after the port was asked for."""


@dataclass(frozen=True, slots=True)
class LanesOpened:
    """The queues of this port's lanes are declared at the relay."""


class Owner(StrEnum):
    """Which side of a port an operator says owns the VM."""

    DONOR = "donor"
    RECIPIENT = "recipient"


@dataclass(frozen=True, slots=True)
class Settled:
    """An operator has decided who owns the VM. ``by`` names the person and the machine."""

    owner: Owner
    by: str
    evidence: str


Event = Heard[Message] | DeadlinePassed | WakeUp | RuleDue | LanesOpened | Settled
