"""The broker's conversation with the donor agent before a port is fixed. Pure models."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import Field

from shared.messages.base import Message, PortMessage, Refusal, Text, Timestamp
from shared.messages.costs import LeavingTerms
from shared.messages.rule_facts import DonorFacts, Told
from shared.messages.service_change import Ejected
from shared.messages.vm import IdentityBundle
from shared.messages.vm_details import VmDetails
from shared.parties import Name, Role

MAX_REASONS = 32
"""Of one answer about a VM; more are counted in the last one."""
Reasons = Annotated[tuple[Refusal, ...], Field(max_length=MAX_REASONS)]


class ApprovalRequested(PortMessage):
    """The broker asks the donor whether this tenant may take this VM away."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.DONOR})

    tenant: Name
    vm_uuid: UUID
    recipient: Name | None = Field(default=None, description="Where it is to go, if the tenant named a provider.")
    eject: tuple[Ejected, ...] = Field(default=(), max_length=64, description="Drives whose media stay behind.")
    starts_at: Timestamp | None = Field(default=None, description="When the tenant's window starts; null: at once.")
    told: Told = Field(default_factory=dict, description="What the tenant tells a donor that demands it, by field.")
    void: tuple[Annotated[Text, Field(max_length=128)], ...] = Field(
        default=(),
        max_length=64,
        description="Codes of refusals that a rule has voided, as DemandRefused told: the donor judges without them. "
        "field_missing:NAME is one field.",
    )


class DonorApproved(PortMessage):
    """The donor's records allow the port, and its node has read the live VM."""

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    identity: IdentityBundle
    partners: tuple[Name, ...] = Field(default=(), description="Where the donor lets its VMs go; empty means anywhere.")
    terms: LeavingTerms | None = Field(default=None, description="What leaving costs; None: the donor does not say.")
    facts: DonorFacts | None = Field(default=None, description="What its records say, for the rules.")


class DonorRejected(PortMessage):
    """The donor refuses; every broken rule is named."""

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    refusals: tuple[Refusal, ...]
    facts: DonorFacts | None = Field(default=None, description="What its records say, for the rules.")


class InspectVm(Message):
    """The broker passes a tenant's question on: what is this VM, and what speaks against a port of it? No port begins.

    ``inquiry_id`` is the broker's own; it is in the answer.
    """

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.DONOR})
    LIFETIME: ClassVar = timedelta(seconds=30)

    inquiry_id: UUID
    tenant: Name
    vm_uuid: UUID


class VmInspected(Message):
    """What the donor's records and its node say; ``vm`` is missing where the node could not be asked or did not know.

    A tenant that does not own the VM is told so in ``refusals``, and nothing else.
    """

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})
    LIFETIME: ClassVar = timedelta(seconds=30)

    inquiry_id: UUID
    tenant: Name
    vm: VmDetails | None = None
    refusals: Reasons = ()
    facts: DonorFacts | None = Field(default=None, description="What its records say, for the rules.")
