"""The state of a port's saga: all that the broker knows about one port. A pure value.

It is saved as JSON after each step and read back before the next one, so it survives a restart of the process between
any two messages. What is saved must be readable: `with_` checks each change as if the value were made new.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from services.broker.costs.basis import NO_BASIS, Basis
from services.broker.saga.port_rules import NO_RULES, PortRules
from services.broker.saga.saved import Saved
from shared.bus import LaneEnds
from shared.messages import Refusal
from shared.messages.base import Code, Text, Timestamp
from shared.messages.costs import LeavingTerms
from shared.messages.network import AnchorPrefixes
from shared.messages.porting import (
    OutboundFinished,
    ServiceChangeAgreement,
    Side,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import PortPhase, PortRequested, Quote, SlaRecord
from shared.messages.vm import IdentityBundle
from shared.parties import Name, Party, PartyName, donor, node, recipient, tenant

ENDS = frozenset({PortPhase.COMPLETED, PortPhase.FAILED, PortPhase.CANCELLED, PortPhase.REFUSED, PortPhase.PLANNED})
"""The end phases; no phase follows them."""


class Anchor(Saved):
    """Neutral prefixes, and the gateways that announce them: they are told where a VM with such addresses is served."""

    prefixes: AnchorPrefixes = ()
    gateways: tuple[PartyName, ...] = Field(default=(), max_length=16)


NO_ANCHOR = Anchor()


class Failure(Saved):
    """Why a port ends without success, and the phase in which that was found."""

    outcome: Literal[PortPhase.FAILED, PortPhase.CANCELLED]
    phase: PortPhase
    code: Code
    detail: Text


class Settlement(Saved):
    """An operator's decision who owns the VM, where the parties could not say it."""

    owner: Name
    by: Text
    at: Timestamp
    evidence: Text

    def __str__(self) -> str:
        """For the record, and for the tenant."""
        return f"Settled for {self.owner} by {self.by} at {self.at.isoformat()}: {self.evidence}"


class SagaState(Saved):
    """Everything about one port. ``version`` is the version of this format."""

    version: Literal[1] = 1

    # The request
    request: PortRequested
    tenant: Name
    vm_name: Text
    requested_at: Timestamp
    candidates: tuple[Name, ...] = Field(description="Providers that are asked for quotes.")
    anchor: Anchor = Field(default=NO_ANCHOR, description="As the broker's settings had it when the port began.")
    basis: Basis = Field(default=NO_BASIS, description="Rates of exchange, records and rules, as the port began.")

    rules: PortRules = Field(default=NO_RULES, description="The rules that bind the port, and what came of them.")

    # Where the port is, and what it waits for
    phase: PortPhase
    phase_since: Timestamp
    deadline: Timestamp | None = Field(
        default=None, description="When this phase gives up; every phase but the ends has one."
    )
    wake_at: Timestamp | None = Field(
        default=None, description="When the window opens, seeding may begin, or a question is repeated."
    )
    retries: int = 0

    # Who owns the VM
    owner: Name = Field(description="The provider that may run the VM, by the newest epoch.")
    epoch: int = Field(ge=1, description="The newest committed epoch.")
    committed: bool = Field(default=False, description="The switchover is committed and not reverted.")
    reverted: bool = Field(default=False, description="The switchover was committed, and then reverted.")

    # The choice of a recipient
    identity: IdentityBundle | None = None
    leaving: LeavingTerms | None = Field(default=None, description="What the donor asks for leaving, if it says so.")
    asked: tuple[Name, ...] = Field(default=(), description="Providers that may hold something for this port.")
    released: tuple[Name, ...] = Field(default=(), description="Providers of ``asked`` that were told to release it.")
    quotes: tuple[Quote, ...] = ()
    declined: dict[Name, tuple[Refusal, ...]] = Field(default_factory=dict)
    chosen: Quote | None = None
    agreement: ServiceChangeAgreement | None = None
    lanes_open: bool = Field(default=False, description="Lanes were opened and not yet closed.")

    # The transfer and the completion
    moving_since: Timestamp | None = Field(
        default=None, description="When the window opened for this port; seeding before it does not count."
    )
    guest_paused_at: Timestamp | None = Field(
        default=None, description="When the broker heard from the donor's node that all is sent and the guest stands."
    )
    switchover_requested_at: Timestamp | None = Field(
        default=None, description="When the recipient's node first asked for the VM; it is granted or denied."
    )
    arrived_at: Timestamp | None = Field(
        default=None, description="When the broker heard that the VM runs at the recipient."
    )
    not_there: Failure | None = Field(
        default=None,
        description="The recipient's final word that no guest runs there; the donor's node is asked for its copy.",
    )
    outbound: OutboundFinished | None = None
    outbound_trouble: Text = ""
    donor_stopped: bool = Field(
        default=False, description="The donor reported a failure of its side, and that the guest does not run there."
    )
    donor_runs: bool = Field(
        default=False, description="The donor's newest word is that its copy runs, although ownership has passed."
    )
    disconnected: VmDisconnected | None = None
    provisioned: VmProvisioned | None = None

    # The end
    failure: Failure | None = None
    refusals: tuple[Refusal, ...] = ()
    aborted: tuple[Side, ...] = Field(
        default=(), description="Sides that have confirmed that their transfer is stopped."
    )
    contradiction: Text = Field(
        default="", description="A side's word against the abort; the abort ends only with words that agree again."
    )
    settled: Settlement | None = None
    warnings: tuple[Text, ...] = ()
    sla: SlaRecord | None = None

    @property
    def port_id(self) -> UUID:
        """The port's id, which the tenant chose."""
        return self.request.port_id

    @property
    def ended(self) -> bool:
        """Whether the port is in an end phase."""
        return self.phase in ENDS

    @property
    def recipient(self) -> Name | None:
        """The chosen recipient, once there is one."""
        return self.chosen.provider if self.chosen else None

    @property
    def tenant_party(self) -> Party:
        """The tenant that asked for the port."""
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
        """The node that the VM leaves, once there is an agreement."""
        return node(self.agreement.donor, self.agreement.donor_node) if self.agreement else None

    @property
    def recipient_node(self) -> Party | None:
        """The node that the VM joins, once there is an agreement."""
        return node(self.agreement.recipient, self.agreement.recipient_node) if self.agreement else None

    @property
    def lane_ends(self) -> LaneEnds | None:
        """The two nodes between which the lanes run, once there is an agreement."""
        if self.donor_node is None or self.recipient_node is None:
            return None
        return LaneEnds(self.port_id, self.donor_node, self.recipient_node)

    @property
    def rule_due_at(self) -> datetime | None:
        """When the next duty by a rule is due."""
        return self.rules.due_at

    @property
    def gateways(self) -> tuple[PartyName, ...]:
        """Gateways of the neutral prefixes."""
        return self.anchor.gateways

    @property
    def donor_let_go(self) -> bool:
        """Whether the donor itself has said that the guest no longer runs there."""
        return (self.outbound is not None or self.donor_stopped) and not self.donor_runs

    @property
    def may_disconnect(self) -> bool:
        """Whether the donor may be told to take the VM off: after its own word, or an operator's."""
        return self.donor_let_go or self.settled is not None

    @property
    def holders(self) -> tuple[Name, ...]:
        """Providers that may still hold a quote or a reservation."""
        return tuple(name for name in self.asked if name not in self.released)
