"""What a saga hears: messages, deadlines and the shell's own reports. Past tense, plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared.messages import Message
from shared.parties import Party


@dataclass(frozen=True, slots=True)
class Heard:
    """A believed message: the bus has verified its sender."""

    sender: Party
    message: Message


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The phase's deadline is over. ``last_heard`` is when the donor's node last reported progress, if it did."""

    last_heard: datetime | None = None


@dataclass(frozen=True, slots=True)
class WakeUp:
    """The time that the phase asked for has come: the window opens, seeding may begin, or a question is to be asked
    again.
    """


@dataclass(frozen=True, slots=True)
class LanesOpened:
    """The relay's queues of this port are declared."""


Event = Heard | DeadlinePassed | WakeUp | LanesOpened
