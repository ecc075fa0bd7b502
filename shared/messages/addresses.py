"""The conversation about a VM's addresses: what nodes did for them, the end of an extension, and who serves them. Pure.

The values are in `shared.messages.network`. A port's extension outlives the port: it ends when its time is up, when the
tenant ends it, when the VM is ported on, or when a node no longer needs it.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from pydantic import Field

from shared.messages.base import Epoch, Milliseconds, PortMessage, Text, Timestamp, Value
from shared.messages.network import MAX_CARDS, CareOf, IpAddress, Label, NetworkPlan
from shared.messages.queries import Answer, Question
from shared.parties import Name, PartyName, Role

MAX_REMAINING = 64
MAX_REPORTS = 100


class NetworkState(StrEnum):
    """How far a node is with a VM's addresses."""

    PREPARED = "prepared"
    """All that can be made before the switchover is there; nothing passes yet."""
    CARRYING = "carrying"
    """Packets for the VM reach it at the recipient, with the donor's help."""
    ANNOUNCED = "announced"
    """The recipient announces the addresses, and packets come by its own uplink."""
    CLOSED = "closed"
    """Nothing of this port is left on the node's network that would need the other side."""
    FAILED = "failed"


class NetworkReported(PortMessage):
    """A node says how far it is with the VM's addresses. Only recorded: nothing of the port waits for it."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    epoch: Epoch = Field(description="The epoch that the port commits or has committed.")
    state: NetworkState
    detail: Text = ""
    first_answer_ms: Milliseconds | None = Field(
        default=None, description="From the change of the rule to the first answered packet; null: not measured."
    )


class CloseExtension(PortMessage):
    """The donor's help for this port's addresses ends: remove what needs the other side. Idempotent; repeated."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.NODE})

    epoch: Epoch = Field(description="The port's own. A node whose VM has come again by a newer one touches only this.")
    reason: Text


class ExtensionClosed(PortMessage):
    """Nothing is left that needs the other side; also said by a node that never had it."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    epoch: Epoch
    left_overs: tuple[Text, ...] = Field(
        default=(), max_length=MAX_REMAINING, description="What could not be removed, by name."
    )


class ServeAddresses(PortMessage):
    """The VM has a new owner: gateways of the neutral prefix send its packets there from now on.

    Repeated until answered. A gateway refuses an epoch that is older than what it has heard of the VM. It announces
    nothing new for this: the prefix is announced all the time.
    """

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.NODE})
    URGENT: ClassVar = True

    vm_uuid: UUID
    epoch: Epoch
    owner: Name = Field(description="The provider that serves the VM by this epoch.")
    care_of: tuple[CareOf, ...] = Field(
        default=(),
        max_length=256,
        description="Where to send what comes for each address. Empty: the VM was given back, so this port's change is "
        "undone.",
    )


class AddressesServed(PortMessage):
    """A gateway has done so, or says by `epoch` that it has heard of a newer one."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})
    LIFETIME: ClassVar = timedelta(minutes=10)

    vm_uuid: UUID
    epoch: Epoch = Field(description="By which the gateway serves the VM now.")


# A tenant's questions


class ShowNetwork(Question):
    """How does this VM of mine, or the VM of this port, keep its addresses? Give one of the ids."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    port_id: UUID | None = None
    vm_uuid: UUID | None = Field(default=None, description="Of its newest port that has a network plan is told.")


class EndExtension(Question):
    """I no longer need the donor's help for this port's addresses. Answered as `ShowNetwork` is."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    port_id: UUID


class LocateVm(Question):
    """Who serves this VM of mine, at which addresses, by which epoch?"""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    vm_uuid: UUID


class VmLocated(Answer):
    """The registry's word on where a VM is. True also when the provider that had it before is gone."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    vm_uuid: UUID
    vm_name: Text
    provider: Name
    node: Name
    epoch: Epoch
    since: Timestamp = Field(description="When this epoch was committed.")
    addresses: tuple[IpAddress, ...] = Field(
        default=(), max_length=32 * MAX_CARDS, description="Kept by the VM's ports; empty: no port has known any."
    )
    dns_name: Text = Field(default="", description="Under which the VM is found in DNS; empty: it is not there.")
    dns_epoch: Epoch | None = Field(default=None, description="By which DNS answers; null: it does not.")


class ExtensionState(StrEnum):
    """Whether the donor still helps."""

    OPEN = "open"
    ENDING = "ending"
    ENDED = "ended"


class ExtensionShown(Value):
    """The donor's help after a port has completed."""

    state: ExtensionState
    since: Timestamp
    ends_at: Timestamp | None = Field(default=None, description="When its time is up; null: never.")
    reason: Text = Field(default="", description="Why it ends or has ended.")
    closed_by: tuple[PartyName, ...] = Field(default=(), max_length=2, description="Nodes that have closed it.")


class RecordedReport(Value):
    """One `NetworkReported`, as it stands in the port's record."""

    at: Timestamp
    sender: PartyName
    epoch: Epoch
    state: NetworkState
    detail: Text = ""
    first_answer_ms: Milliseconds | None = None


class NetworkShown(Answer):
    """How one port's VM keeps its addresses."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    port_id: UUID
    vm_uuid: UUID
    vm_name: Text
    provider: Name = Field(description="Who serves the VM now.")
    epoch: Epoch
    plan: NetworkPlan | None = Field(default=None, description="Null: the providers' networks are taken as one.")
    findings: tuple[Label, ...] = Field(
        default=(), max_length=32, description="Where the sources of its addresses differed when the donor read them."
    )
    extension: ExtensionShown | None = Field(default=None, description="Null: there is none, or not yet.")
    reports: tuple[RecordedReport, ...] = Field(default=(), max_length=MAX_REPORTS, description="The newest ones.")
