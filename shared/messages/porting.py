"""The conversation that fixes a port and carries it out: quote, reservation, agreement, transfer, switchover, end.

Pure models. The broker speaks to a provider's agents; an agent passes to its own node what concerns the host, and
passes the answer back under the same name. Only progress and switchover, being urgent, go straight to the broker.
"""

# Over 400 lines: one conversation, whose messages are read one after the other.

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import Field

from shared.messages.base import (
    Bytes,
    Code,
    Epoch,
    Milliseconds,
    PortMessage,
    Price,
    Refusal,
    Seconds,
    Text,
    Timestamp,
    Value,
)
from shared.messages.lanes import LaneEndpoint
from shared.messages.network import AnchorPrefixes, NetworkPlan
from shared.messages.service_change import PortLimits, Quote
from shared.messages.vm import DiskTarget, DomainXml, HypervisorVersions, IdentityBundle, Sha256, VmDescription
from shared.parties import Name, Role


class QuoteRequested(PortMessage):
    """The broker asks a provider what it would take this VM for. No XML yet: only who is chosen sees that."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT})

    tenant: Name
    vm: VmDescription
    versions: HypervisorVersions
    limits: PortLimits
    anchor: AnchorPrefixes = ()
    answer_by: Timestamp


class QuoteOffered(PortMessage):
    """A provider's offer, valid until its own expiry."""

    SENDERS: ClassVar = frozenset({Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    quote: Quote


class QuoteDeclined(PortMessage):
    """A provider cannot or will not take the VM; one refusal per finding."""

    SENDERS: ClassVar = frozenset({Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    refusals: tuple[Refusal, ...]


class ReservationRequested(PortMessage):
    """The chosen recipient is to hold capacity and say how the VM will run there."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT})

    tenant: Name
    identity: IdentityBundle
    limits: PortLimits
    quote: Quote
    anchor: AnchorPrefixes = ()


class ReservedDisk(Value):
    """Where a disk will lie at the recipient."""

    target: DiskTarget
    path: Text
    format: Text
    virtual_size_bytes: Bytes
    read_only: bool = Field(default=False, description="Its file is sent before the migration, byte for byte.")
    file_bytes: Bytes = Field(default=0, description="Of a read-only disk: the size of its file.")


class Reserved(PortMessage):
    """Capacity is held. The guest ABI in ``domain_xml`` is the donor's; only host-side parts differ."""

    SENDERS: ClassVar = frozenset({Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    node: Name
    lane: LaneEndpoint = Field(description="How that node proves itself on the lanes.")
    domain_xml: DomainXml
    disks: tuple[ReservedDisk, ...]
    network: NetworkPlan | None = None
    reserved_until: Timestamp


class ReservationRefused(PortMessage):
    """The platform check before anything moves found these."""

    SENDERS: ClassVar = frozenset({Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    refusals: tuple[Refusal, ...]


class ReleaseReservation(PortMessage):
    """The port does not come, or comes no further; a quote not taken is released so, too. Idempotent."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT})

    reason: Text


class ServiceChangeAgreement(Value):
    """The SCA: what donor, recipient and tenant agreed on, as fixed by the broker."""

    port_id: UUID
    tenant: Name
    vm_uuid: UUID
    vm_name: Text
    donor: Name
    donor_node: Name
    recipient: Name
    recipient_node: Name
    epoch: Epoch = Field(ge=1, description="The epoch that the switchover will commit.")
    window_start: Timestamp
    deadline: Timestamp
    promised_total_s: Seconds
    promised_downtime_ms: Milliseconds
    price_per_month: Price
    currency: str
    limits: PortLimits
    donor_lane: LaneEndpoint = Field(description="Whom the recipient's node speaks to, and nobody else.")
    recipient_lane: LaneEndpoint = Field(description="Whom the donor's node speaks to, and nobody else.")
    routes: tuple[Annotated[str, Field(pattern=r"^(relay|direct)$")], ...] = ("relay",)
    domain_xml: DomainXml = Field(description="As it will run at the recipient.")
    domain_xml_sha256: Sha256
    disks: tuple[ReservedDisk, ...]
    network: NetworkPlan | None = Field(default=None, description="None: the providers' networks are taken as one.")
    fixed_at: Timestamp


class PortingFixed(PortMessage):
    """The porting is fixed; all parties hold the same agreement."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT, Role.DONOR, Role.RECIPIENT})

    agreement: ServiceChangeAgreement


class OpenInbound(PortMessage):
    """Make the recipient's node ready: disks, sockets, lanes."""

    SENDERS: ClassVar = frozenset({Role.BROKER, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT, Role.NODE})

    agreement: ServiceChangeAgreement


class InboundOpened(PortMessage):
    """The recipient's node waits for the VM."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT, Role.BROKER})


class StartOutbound(PortMessage):
    """Start the transfer at the donor's node."""

    SENDERS: ClassVar = frozenset({Role.BROKER, Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.NODE})

    agreement: ServiceChangeAgreement


class OutboundStarted(PortMessage):
    """The donor's node has begun: libvirt migrates, or contents are sent ahead of the window."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.BROKER})


class Side(StrEnum):
    """Which side of a port speaks."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"


class GuestPaused(PortMessage):
    """The donor's node has sent all and fenced its guest; without it nothing is committed. Repeated until heard."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})
    URGENT: ClassVar = True
    GUEST_STANDS_STILL: ClassVar = True
    LIFETIME: ClassVar = timedelta(seconds=60)

    vm_uuid: UUID
    epoch: Epoch


class RequestSwitchover(PortMessage):
    """The recipient's node holds libvirt's Finish call and asks for the VM. The guest is paused meanwhile."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})
    URGENT: ClassVar = True
    GUEST_STANDS_STILL: ClassVar = True
    LIFETIME: ClassVar = timedelta(seconds=60)

    vm_uuid: UUID
    epoch: Epoch


class SwitchoverGranted(PortMessage):
    """The broker has committed the epoch: from now on only the recipient may run the VM."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.NODE})
    URGENT: ClassVar = True

    epoch: Epoch


class SwitchoverDenied(PortMessage):
    """The VM stays at the donor; the recipient's half-made copy must be destroyed."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.NODE})
    URGENT: ClassVar = True

    code: Code
    detail: Text


class QuerySwitchover(PortMessage):
    """A node that does not know the outcome, after a crash or without a Finish reply, asks who owns the VM."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})
    URGENT: ClassVar = True


class SwitchoverState(PortMessage):
    """Who owns the VM by the broker's ledger."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.NODE})
    URGENT: ClassVar = True

    committed: bool
    owner: Name
    epoch: Epoch
    ended: bool = Field(description="The port is over; what remains of it may be removed.")
    arrived: bool = Field(
        default=False, description="The recipient said that the guest runs there; only then the donor's copy may go."
    )
    ready: bool = Field(default=False, description="The broker could commit now; without that no guest is paused.")


class OutboundFinished(PortMessage):
    """The guest has left: libvirt at the donor has confirmed the migration."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.BROKER})

    downtime_ms: Milliseconds = Field(
        description="Donor's clock: from the vCPUs' pause to the news that they run at the recipient; an upper bound."
    )
    hypervisor_downtime_ms: Milliseconds | None = Field(default=None, description="libvirt's own figure.")
    outage_ms: Milliseconds | None = Field(
        default=None,
        description="Longest silence around the switchover, by ARP from the donor's host; null: not measured.",
    )
    total_ms: Milliseconds = Field(description="Without what went ahead of the window.")
    memory_bytes: Bytes
    disk_bytes: Bytes
    wire_bytes: Bytes
    seeded_bytes: Bytes = Field(default=0, description="What of wire_bytes went ahead of the window.")
    post_copy: bool = False


class InboundFinished(PortMessage):
    """The guest runs at the recipient."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT, Role.BROKER})

    epoch: Epoch


class TransferFailed(PortMessage):
    """One side's transfer failed. ``guest_running`` is what libvirt on that side said after the clean-up."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.DONOR, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.RECIPIENT, Role.BROKER})

    side: Side
    code: Code
    detail: Text
    guest_running: bool
    may_have_run: bool = Field(default=False, description="Recipient: it is gone, so the donor's copy may be older.")


class AbortTransfer(PortMessage):
    """Stop this side's transfer and remove what it made. Idempotent; answered even where nothing is under way."""

    SENDERS: ClassVar = frozenset({Role.BROKER, Role.DONOR, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.RECIPIENT, Role.NODE})

    side: Side
    reason: Text
    epoch: Epoch | None = Field(
        default=None,
        description="The VM's newest epoch. A node that has heard of a newer one does not believe this: the broker's "
        "ledger was restored from before it.",
    )


class TransferAborted(PortMessage):
    """This side is stopped and clean. At the donor ``guest_running`` is true, at the recipient false."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.DONOR, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.RECIPIENT, Role.BROKER})

    side: Side
    guest_running: bool
    left_overs: tuple[Text, ...] = Field(default=(), description="What could not be removed, by name.")


class ProvisionVm(PortMessage):
    """The VM has arrived: keep its lasting definition and autostart, if it has any, and compare its identity."""

    SENDERS: ClassVar = frozenset({Role.BROKER, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT, Role.NODE})

    vm_uuid: UUID
    autostart: bool
    donor_xml: DomainXml = Field(description="The identity bundle's, to compare the guest ABI with.")
    lasting_xml: DomainXml | None = Field(
        default=None, description="The lasting definition, as the recipient wrote it for its node; None: it has none."
    )


MAX_ADDRESS_DIFFERENCES = 64


class VmProvisioned(PortMessage):
    """The recipient serves the VM for good."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT, Role.BROKER})

    identity_differences: tuple[Text, ...] = Field(default=(), description="Empty if the guest ABI is the donor's.")
    address_differences: tuple[Text, ...] = Field(
        default=(),
        max_length=MAX_ADDRESS_DIFFERENCES,
        description="Where the VM has other addresses than were agreed, as far as was seen.",
    )


class DisconnectVm(PortMessage):
    """The VM has left for good: undefine it, put its disks into quarantine, free its capacity."""

    SENDERS: ClassVar = frozenset({Role.BROKER, Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.NODE})

    vm_uuid: UUID
    keep_until: Timestamp | None = Field(
        default=None, description="A rule has the donor keep the disks at least until then; null: none does."
    )


class VmDisconnected(PortMessage):
    """The donor no longer has the VM; its disks are kept until the quarantine ends."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.BROKER})

    quarantined_disks: tuple[Text, ...] = ()
    left_disks: tuple[Text, ...] = Field(
        default=(), description="A sentence for each disk that stays: a device, a medium, or what another VM has, too."
    )
    quarantine_until: Timestamp | None = Field(default=None, description="Set by the donor agent's policy.")


class CompletionFailed(PortMessage):
    """Provisioning or disconnecting could not be done yet; the broker asks again."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.DONOR, Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.RECIPIENT, Role.BROKER})

    side: Side
    code: Code
    detail: Text


class DisksErased(PortMessage):
    """The quarantine is over and the donor's copy is erased."""

    SENDERS: ClassVar = frozenset({Role.NODE, Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.BROKER})

    erased_bytes: Bytes
