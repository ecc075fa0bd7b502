"""What a decision asks the shell to do: send, open and close lanes, commit, record, alarm. Imperative, plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.bus import LaneEnds
from shared.messages import Message
from shared.messages.service_change import PortPhase, SlaRecord
from shared.parties import Name, Party


@dataclass(frozen=True, slots=True)
class Send:
    """Say this to that party. With ``perishable`` the message is worth nothing after the new phase's deadline."""

    to: Party
    message: Message
    perishable: bool = False
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class OpenLanes:
    """Declare the port's lanes, then tell the saga `LanesOpened`."""

    ends: LaneEnds


@dataclass(frozen=True, slots=True)
class CloseLanes:
    """Remove the port's lanes."""

    ends: LaneEnds


@dataclass(frozen=True, slots=True)
class CommitEpoch:
    """Enter into the ownership log that ``owner`` holds the VM from ``epoch`` on. Must fail unless ``epoch - 1`` is
    the newest.
    """

    vm_uuid: UUID
    epoch: int
    owner: Name
    node: Name


@dataclass(frozen=True, slots=True)
class RecordEnd:
    """The port is over."""

    outcome: PortPhase
    code: str
    detail: str
    sla: SlaRecord | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that an operator should look at; the port goes on."""

    code: str
    detail: str


Effect = Send | OpenLanes | CloseLanes | CommitEpoch | RecordEnd | Alarm
