"""What a tenant asks the broker. Pure models. An answer has its question's correlation id.

The broker answers at once, out of its ledger; only `ShowVm` is passed on to the VM's provider, which has seconds.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from shared.messages.approval import MAX_REASONS
from shared.messages.base import Bytes, Code, Count, Epoch, Message, Refusal, Text, Timestamp, Value
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.rule_facts import AppliedRules, Charge
from shared.messages.service_change import PortPhase, PortProgressed, PortRequested, SlaRecord
from shared.messages.vm import VmState
from shared.messages.vm_details import VmDetails
from shared.parties import Name, PartyName, Role

ANSWER_WITHIN = timedelta(seconds=30)
MAX_UNSIZED = 128


class Question(Message):
    """Asked by a tenant; worth nothing after half a minute."""

    LIFETIME: ClassVar = ANSWER_WITHIN


class Answer(Message):
    """Given by the broker."""

    LIFETIME: ClassVar = ANSWER_WITHIN


class ListVms(Question):
    """Which VMs of mine are there?"""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})


class RegisteredVm(Value):
    """A VM as the registry knows it."""

    uuid: UUID
    name: Text
    state: VmState
    memory_bytes: Bytes
    vcpus: Count
    disk_bytes: Bytes
    provider: Name
    node: Name
    epoch: Epoch
    port_id: UUID | None = Field(default=None, description="The port that is under way, if any.")
    unsized_disks: tuple[Text, ...] = Field(
        default=(),
        max_length=MAX_UNSIZED,
        description="Disks of unknown size, which are not in disk_bytes. 'all' where none is known.",
    )
    problem: Text = Field(default="", description="Why the VM cannot be read at its provider; empty if it can.")


class VmsListed(Answer):
    """The tenant's VMs."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    vms: tuple[RegisteredVm, ...]


class ShowVm(Question):
    """What is this VM of mine, and what speaks against a port of it? Its provider is asked; nothing moves."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    vm_uuid: UUID


class VmShown(Answer):
    """One VM: the registry's facts, what its node has read, and every reason why it cannot leave now."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    vm: RegisteredVm
    details: VmDetails | None = Field(
        default=None, description="As its node has just read it; null where the node was not reached or cannot read it."
    )
    refusals: tuple[Refusal, ...] = Field(
        default=(), max_length=2 * MAX_REASONS, description="What speaks against a port now; empty: nothing known does."
    )


class ListProviders(Question):
    """Who could take a VM?"""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})


class ProviderStatus(Value):
    """A provider, as the broker sees it."""

    name: Name
    last_seen: Timestamp | None = None
    nodes: Count
    nodes_healthy: Count
    memory_free_bytes: Bytes
    disk_free_bytes: Bytes


class ProvidersListed(Answer):
    """All providers that this broker serves."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    providers: tuple[ProviderStatus, ...]


class ListPorts(Question):
    """Which ports of mine are there? The newest first."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    active_only: bool = False


class PortSummary(Value):
    """A port in a list."""

    port_id: UUID
    vm_uuid: UUID
    vm_name: Text
    donor: Name
    recipient: Name | None = None
    phase: PortPhase
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    requested_at: Timestamp
    updated_at: Timestamp


class PortsListed(Answer):
    """The tenant's ports."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    ports: tuple[PortSummary, ...]


class ShowPort(Question):
    """All about one port."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    port_id: UUID


class RecordedEvent(Value):
    """One line of a port's record: what was said, when, and by whom."""

    at: Timestamp
    sender: PartyName
    type: Text
    phase: PortPhase
    detail: Text = ""


class PortShown(Answer):
    """A port's whole record."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    summary: PortSummary
    request: PortRequested
    agreement: ServiceChangeAgreement | None = None
    progress: PortProgressed | None = None
    sla: SlaRecord | None = None
    failure: Text | None = None
    refusals: tuple[Refusal, ...] = Field(default=(), description="Why the port is refused, if it is.")
    rules: AppliedRules = Field(default=(), description="Every rule that was applied, with clause and evidence.")
    charges: tuple[Charge, ...] = Field(default=(), description="The donor's charges that no rule forbids.")
    events: tuple[RecordedEvent, ...]


class QueryFailed(Answer):
    """The question has no answer."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    code: Literal["not_found", "not_yours", "invalid"] | Code
    detail: Text
