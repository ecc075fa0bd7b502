"""What a port's saga is made of: its state, the events that reach it, the effects that it asks for. Pure values.

The state is all that the broker knows about a port; it is saved as JSON after each step and read back before the
next one, so it outlives the process between any two messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from shared.bus import LaneEnds
from shared.messages import Message, Refusal
from shared.messages.base import Text, Timestamp, Value
from shared.messages.porting import (
    OutboundFinished,
    ServiceChangeAgreement,
    Side,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import PortPhase, PortRequested, Quote, SlaRecord
from shared.messages.vm import IdentityBundle
from shared.parties import Name, Party, donor, node, recipient, tenant

ENDS = frozenset({PortPhase.COMPLETED, PortPhase.FAILED, PortPhase.CANCELLED, PortPhase.REFUSED, PortPhase.PLANNED})
"""Phases that nothing leaves."""


class Failure(Value):
    """Why a port ends without success, and in which phase that was found."""

    outcome: Literal[PortPhase.FAILED, PortPhase.CANCELLED]
    phase: PortPhase
    code: Text
    detail: Text


class SagaState(Value):
    """Everything about one port. ``version`` is of this shape, not of the port."""

    version: Literal[1] = 1
    request: PortRequested
    tenant: Name
    vm_name: Text
    requested_at: Timestamp
    candidates: tuple[Name, ...] = Field(description="Providers that are asked for quotes.")

    phase: PortPhase
    phase_since: Timestamp
    deadline: Timestamp | None = Field(
        default=None, description="When this phase gives up; every waiting phase has one."
    )
    wake_at: Timestamp | None = Field(
        default=None, description="When this phase wants to be called: window, seeding, next retry."
    )
    retries: int = 0

    owner: Name = Field(description="The provider that may run the VM, by the newest epoch.")
    epoch: int = Field(ge=1, description="The newest committed epoch.")
    committed: bool = Field(default=False, description="Switchover is committed and was not taken back.")
    reverted: bool = Field(default=False, description="Switchover was committed, and taken back.")

    identity: IdentityBundle | None = None
    asked: tuple[Name, ...] = Field(default=(), description="Providers that may hold something for this port.")
    released: tuple[Name, ...] = Field(default=(), description="Of those, who was told to let go.")
    quotes: tuple[Quote, ...] = ()
    declined: dict[Name, tuple[Refusal, ...]] = Field(default_factory=dict)
    chosen: Quote | None = None
    agreement: ServiceChangeAgreement | None = None
    lanes_open: bool = Field(default=False, description="Lanes were asked for and not yet given up.")

    moving_since: Timestamp | None = Field(
        default=None, description="When the window opened for this port; what is sent ahead does not count."
    )
    switchover_requested_at: Timestamp | None = None
    arrived_at: Timestamp | None = Field(default=None, description="When the broker heard that the VM runs there.")
    outbound: OutboundFinished | None = None
    outbound_trouble: Text = ""
    disconnected: VmDisconnected | None = None
    provisioned: VmProvisioned | None = None

    failure: Failure | None = None
    refusals: tuple[Refusal, ...] = ()
    aborted: tuple[Side, ...] = Field(default=(), description="Halves that have confirmed that they are stopped.")
    warnings: tuple[Text, ...] = ()
    sla: SlaRecord | None = None

    @property
    def port_id(self) -> UUID:
        """The port that this saga is about."""
        return self.request.port_id

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in ENDS

    @property
    def recipient(self) -> Name | None:
        """The chosen recipient, once there is one."""
        return self.chosen.provider if self.chosen else None

    @property
    def tenant_party(self) -> Party:
        """Who asked."""
        return tenant(self.tenant)

    @property
    def donor_party(self) -> Party:
        """The donor's agent."""
        return donor(self.request.donor)

    @property
    def recipient_party(self) -> Party | None:
        """The chosen recipient's agent."""
        return recipient(self.chosen.provider) if self.chosen else None

    @property
    def donor_node(self) -> Party | None:
        """The node that the VM leaves, once the port is fixed."""
        return node(self.agreement.donor, self.agreement.donor_node) if self.agreement else None

    @property
    def recipient_node(self) -> Party | None:
        """The node that the VM joins, once the port is fixed."""
        return node(self.agreement.recipient, self.agreement.recipient_node) if self.agreement else None

    @property
    def lane_ends(self) -> LaneEnds | None:
        """Between whom the lanes run, once the port is fixed."""
        if self.donor_node is None or self.recipient_node is None:
            return None
        return LaneEnds(self.port_id, self.donor_node, self.recipient_node)

    @property
    def holders(self) -> tuple[Name, ...]:
        """Providers that may hold a quote or a reservation still."""
        return tuple(name for name in self.asked if name not in self.released)

    def but(self, **changes: Any) -> SagaState:
        """The same state with some fields changed."""
        return self.model_copy(update=changes)


# Events: what reaches the saga.


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

# Effects: what the saga asks for. All but lanes are stored in the step's own transaction.


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


class Verdict(StrEnum):
    """What became of an event."""

    HANDLED = "handled"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a step comes to. ``note`` explains it in the port's record; ``rearm`` starts the phase's deadline afresh."""

    state: SagaState
    effects: tuple[Effect, ...] = ()
    note: str = ""
    verdict: Verdict = Verdict.HANDLED
    rearm: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each phase may take and how its questions are repeated; from the settings."""

    approval: timedelta = timedelta(seconds=30)
    quoting: timedelta = timedelta(seconds=15)
    reserving: timedelta = timedelta(seconds=30)
    preparing: timedelta = timedelta(seconds=120)
    starting: timedelta = timedelta(seconds=60)
    transfer: timedelta = timedelta(hours=4)
    silence: timedelta = timedelta(seconds=180)
    switching: timedelta = timedelta(seconds=60)
    resolving: timedelta = timedelta(minutes=10)
    finishing: timedelta = timedelta(minutes=2)
    aborting: timedelta = timedelta(minutes=2)
    seed_ahead: timedelta = timedelta(hours=6)
    clock_difference: timedelta = timedelta(seconds=60)
    first_retry: timedelta = timedelta(seconds=2)
    longest_retry: timedelta = timedelta(seconds=60)

    def retry(self, retries: int) -> timedelta:
        """The pause before the next question, after so many."""
        return min(self.longest_retry, self.first_retry * (1 << min(retries, 20)))


@dataclass(frozen=True, slots=True)
class Moment:
    """A step's circumstances; handlers take it first. Its methods make decisions."""

    state: SagaState
    now: datetime
    timing: Timing
    last_heard: datetime | None = None
    """When the donor's node last reported progress, if it did; set for deadlines only."""

    def stay(self, *effects: Effect, note: str = "", rearm: bool = False, **changes: Any) -> Decision:
        """Remain in the phase."""
        return Decision(self.state.but(**changes), effects, note, rearm=rearm)

    def go(self, phase: PortPhase, *effects: Effect, note: str = "", **changes: Any) -> Decision:
        """Enter a phase; `step` sets its deadline."""
        fresh: dict[str, Any] = {"phase": phase, "phase_since": self.now, "wake_at": None, "retries": 0}
        return Decision(self.state.but(**(fresh | changes)), effects, note)

    def ignore(self, note: str) -> Decision:
        """Nothing comes of the event, and the record says why."""
        return Decision(self.state, (), note, Verdict.IGNORED)
