"""What a port's saga is made of: its state, the events that reach it, the effects that it asks for. Pure values.

The state is all that the broker knows about a port; it is saved as JSON after each step and read back before the
next one, so it outlives the process between any two messages.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from shared.bus import LaneEnds
from shared.messages import Refusal
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


# Effects: what the saga asks for. All but lanes are stored in the step's own transaction.
