"""The tenant's conversation with the broker: a port asked for, watched, cancelled and ended. Pure models."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from shared.messages.base import (
    Bytes,
    Code,
    Epoch,
    Message,
    Milliseconds,
    PortMessage,
    Price,
    Refusal,
    Seconds,
    Text,
    Timestamp,
    Value,
)
from shared.messages.costs import MAX_OFFERS, Costs, Currency, Horizon, JoiningTerms, LostOffer
from shared.messages.network import NetworkTerms, WantedMode
from shared.messages.prediction import Estimate
from shared.messages.quote_lines import QuoteLines, Requirements
from shared.messages.rule_facts import Charge, Told
from shared.parties import Name, PartyName, Role

BEST = "best"
"""Instead of a recipient's name: the broker chooses among all quotes."""

PostCopy = Literal["never", "if_needed", "always"]
Bandwidth = Annotated[int, Field(ge=64 * 1024, le=2**40)]
"""Bytes per second."""
Overlays = Literal["never", "if_known"]
Ejected = Annotated[str, Field(pattern=r"^(?:all|[a-z]{2,4}[a-z])$")]
"""A drive by its target, or all that have a medium."""


class PortPhase(StrEnum):
    """Where a port is. The first eleven are waiting states with a deadline; the last five are ends."""

    APPROVAL = "approval"
    QUOTING = "quoting"
    RESERVING = "reserving"
    SCHEDULED = "scheduled"
    PREPARING = "preparing"
    STARTING = "starting"
    TRANSFERRING = "transferring"
    SWITCHING = "switching"
    FINISHING = "finishing"
    ABORTING = "aborting"
    RESOLVING = "resolving"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    PLANNED = "planned"


class TransferPhase(StrEnum):
    """What the node agents are moving; seeding is what is sent ahead of the window."""

    SEEDING = "seeding"
    DISK = "disk"
    MEMORY = "memory"
    POST_COPY = "post_copy"
    SWITCHOVER = "switchover"


class PortLimits(Value):
    """What the tenant demands. Unset means: no limit of that kind."""

    max_downtime_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 1000
    window_start: Timestamp | None = Field(default=None, description="The VM does not move before; none means at once.")
    deadline: Timestamp | None = Field(
        default=None, description="A port that is not switched over by then is abandoned."
    )
    max_price_per_month: Price | None = None
    bandwidth_bytes_per_s: Bandwidth | None = None
    post_copy: PostCopy = Field(
        default="never",
        description="May the guest run at the recipient before all of its memory is there? If a host, an agent or the "
        "link between them is then lost for good, the guest is lost; with never the donor's copy stays whole.",
    )
    stop_and_copy: bool = Field(
        default=False,
        description="A guest that writes too fast to be moved within max_downtime_ms, even slowed down, is stopped for "
        "as long as the rest takes; else the port fails and the guest runs on.",
    )
    seed: bool = Field(
        default=False,
        description="Send contents of disks and memory ahead of the window, which must be given; the VM moves in it.",
    )
    seed_bandwidth_bytes_per_s: Bandwidth | None = Field(
        default=None, description="Most that seeding may use; none means the donor's own setting."
    )
    overlays: Overlays = Field(
        default="if_known",
        description="A disk that is an overlay is one again, on the recipient's own bit-identical copy of the base "
        "image, if it publishes one; otherwise, or with never, it arrives as a whole disk.",
    )
    require: Requirements = Field(
        default=(),
        description="Parts that must stay as they are: a provider that changes or loses one does not offer. "
        "all: nothing may be lost.",
    )

    eject: tuple[Ejected, ...] = Field(
        default=(),
        max_length=64,
        description="Drives whose read-only media stay behind, by target, or all: the drive is empty at the recipient.",
    )

    network_mode: WantedMode = Field(
        default="auto",
        description="How the VM keeps its addresses: joined, extend, translate, anchor or announce; auto: by what both "
        "providers can do, and as joined networks where they can do nothing else.",
    )

    horizon_months: Horizon = Field(
        default=12, description="For how many months offers are compared: price over this time, and the port itself."
    )
    downtime_cost_per_hour: Price = Field(
        default=Decimal(0), description="What an hour without the VM costs the tenant, in currency or else the quote's."
    )
    currency: Currency | None = Field(
        default=None, description="In which the tenant pays: limits of price and offers are compared in it."
    )

    @model_validator(mode="after")
    def _window_before_deadline(self) -> Self:
        if self.window_start and self.deadline and self.deadline <= self.window_start:
            raise ValueError("deadline must be after window_start")
        return self

    @model_validator(mode="after")
    def _seeding_before_window(self) -> Self:
        if self.seed and self.window_start is None:
            raise ValueError("seed needs a window_start")
        if self.seed_bandwidth_bytes_per_s is not None and not self.seed:
            raise ValueError("seed_bandwidth_bytes_per_s needs seed")
        return self


class PortRequested(PortMessage):
    """A tenant asks for a port. ``port_id`` is the tenant's choice and makes a repeated request harmless."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    vm_uuid: UUID
    donor: Name
    recipient: Name = Field(description="A provider's name, or 'best'.")
    limits: PortLimits = PortLimits()
    dry_run: bool = Field(default=False, description="Verify and quote only; ends in PortPlanned.")
    told: Told = Field(default_factory=dict, description="What the tenant tells a donor that demands it, by field.")


class PortAccepted(PortMessage):
    """The request is verified and recorded; the donor is being asked."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})


class PortRefused(PortMessage):
    """The port does not happen; nothing has moved."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    refused_by: PartyName
    refusals: tuple[Refusal, ...]


class Quote(Value):
    """A recipient's offer, as the tenant sees it."""

    provider: Name
    price_per_month: Price
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    instance_type: Text
    promised_total_s: Seconds
    promised_downtime_ms: Milliseconds
    valid_until: Timestamp
    kept: QuoteLines = Field(default=(), description="Parts bound to the donor's host that the VM has here, too.")
    made_anew: QuoteLines = Field(default=(), description="Parts that this provider makes of its own: was, becomes.")
    not_kept: QuoteLines = Field(default=(), description="Parts that the VM loses.")
    network: NetworkTerms | None = Field(default=None, description="None: the providers' networks are taken as one.")
    joining: JoiningTerms | None = Field(default=None, description="What it asks beside the price; None: nothing.")
    estimate: Estimate | None = Field(default=None, description="What the broker expects of the port.")
    costs: Costs | None = Field(default=None, description="What it costs the tenant, by the broker; None: not ranked.")

    def as_offered(self) -> Quote:
        """As the provider made it, without what the broker has added."""
        return self.model_copy(update={"estimate": None, "costs": None})


class PortPlanned(PortMessage):
    """The end of a dry run: all offers, best first, and who declined and why."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    quotes: tuple[Quote, ...]
    declined: dict[Name, tuple[Refusal, ...]]
    lost: Annotated[tuple[LostOffer, ...], Field(max_length=MAX_OFFERS)] = Field(
        default=(), description="Why each other offer is not the best; of the best in another currency, too."
    )
    charges: tuple[Charge, ...] = Field(default=(), description="The donor's charges that no rule forbids.")


class StreamProgress(Value):
    """How far one kind of data is. ``remaining_bytes`` can grow while the guest writes."""

    total_bytes: Bytes = 0
    processed_bytes: Bytes = 0
    remaining_bytes: Bytes = 0


class PortProgressed(PortMessage):
    """The donor's node reports how far the transfer is; ``percent`` never runs backwards within one attempt.

    While contents are sent ahead it is how much of the VM was looked at; the transfer then begins at 0.
    """

    SENDERS: ClassVar = frozenset({Role.NODE, Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.BROKER, Role.TENANT})

    phase: TransferPhase
    percent: Annotated[int, Field(ge=0, le=100)]
    memory: StreamProgress
    disk: StreamProgress
    rate_bytes_per_s: Bytes
    dirty_rate_bytes_per_s: Bytes = 0
    wire_bytes: Bytes = Field(
        default=0, description="Bytes that the lanes have carried, both directions, after compression."
    )
    eta_s: Seconds | None = None
    waiting_for: Text | None = Field(default=None, description="Why the switchover is held off, if it is.")


class CancelPort(PortMessage):
    """The tenant takes the request back."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    reason: Text = "cancelled by tenant"


class CancelRefused(PortMessage):
    """It is too late, or there is nothing to cancel; the port goes on or has ended."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    code: Literal["too_late", "already_ended", "unknown_port"]
    detail: Text


class PortCancelled(PortMessage):
    """The port is cancelled; the VM runs at the donor and the recipient holds nothing of it."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT, Role.DONOR, Role.RECIPIENT})

    phase: PortPhase = Field(description="The phase that was cancelled.")


class PortFailed(PortMessage):
    """The port ended without success."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT, Role.DONOR, Role.RECIPIENT})

    phase: PortPhase = Field(description="The phase that failed.")
    code: Code
    detail: Text
    vm_runs_at: Name = Field(description="The provider that owns and runs the VM now.")


class SlaRecord(Value):
    """Promised against measured."""

    promised_total_s: Seconds
    measured_total_s: Seconds
    promised_downtime_ms: Milliseconds
    measured_downtime_ms: Milliseconds
    measured_outage_ms: Milliseconds | None = Field(
        default=None,
        description="As a neighbour on the guest's network saw it; null where nobody could measure it. Not judged.",
    )
    price_per_month: Price
    currency: str
    kept: bool = Field(description="Every measured figure is within its promise.")


class PortCompleted(PortMessage):
    """The VM runs at the recipient, is provisioned there and disconnected at the donor."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT, Role.DONOR, Role.RECIPIENT})

    recipient: Name
    epoch: Epoch
    sla: SlaRecord
    memory_bytes: Bytes
    disk_bytes: Bytes
    wire_bytes: Bytes
    seeded_bytes: Bytes = Field(default=0, description="What of wire_bytes went ahead of the window.")
    warnings: tuple[Text, ...] = ()


class MessageRejected(Message):
    """What you sent could not be accepted; it lies in the dead-letter queue of whom you sent it to."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    code: Code
    reason: Text
    message_id: Text = ""
