"""What a decision asks the shell to do. Imperative, plain values.

All effects are stored in the transaction of the step that asks for them. Messages leave after the commit, through the
outbox; lanes are opened and closed after the commit, because the relay takes no part in the transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from shared.bus import LaneEnds
from shared.messages import Message
from shared.messages.service_change import PortPhase, SlaRecord
from shared.parties import Name, Party

# Messages


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a party."""

    to: Party
    message: Message
    perishable: bool = False
    """The message is useless after the deadline of the phase that the step leads to; `step` fills in ``deadline``."""
    deadline: datetime | None = None
    """After this time the message is dropped instead of delivered; None: it is always delivered."""


# Lanes


@dataclass(frozen=True, slots=True)
class OpenLanes:
    """Declare the port's lanes at the relay, then tell the saga `LanesOpened`."""

    ends: LaneEnds
    extended: bool = False
    """With the lane of the network extension."""


@dataclass(frozen=True, slots=True)
class CloseLanes:
    """Delete the port's lanes at the relay."""

    ends: LaneEnds
    keep_extension: bool = False
    """All but that of the network extension, which outlives the port."""


@dataclass(frozen=True, slots=True)
class KeepExtension:
    """The port ends, and the donor goes on helping with the VM's addresses: `services.broker.extensions` takes over."""

    vm_uuid: UUID
    epoch: int
    ends: LaneEnds
    has_lanes: bool
    ends_after_s: float | None
    """None: it ends only when somebody ends it."""


# The ledger and the operator


@dataclass(frozen=True, slots=True)
class CommitEpoch:
    """Write to the ownership log that ``owner`` holds the VM, on ``node``, from ``epoch`` on.

    The whole step must fail unless ``epoch - 1`` is the newest epoch of the VM.
    """

    vm_uuid: UUID
    epoch: int
    owner: Name
    node: Name


@dataclass(frozen=True, slots=True)
class RecordEnd:
    """Record how the port ended. ``sla`` is set for a completed port only."""

    outcome: PortPhase
    code: str
    detail: str
    sla: SlaRecord | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Call an operator; the port goes on meanwhile."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class RuleBroken:
    """A party has demanded or left undone something against a rule: a line of the record, and counted."""

    regime: str
    rule: str
    how: Literal["unlawful", "overdue"]
    detail: str


Effect = Send | OpenLanes | CloseLanes | KeepExtension | CommitEpoch | RecordEnd | Alarm | RuleBroken
