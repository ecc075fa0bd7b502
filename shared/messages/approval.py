"""The broker's conversation with the donor agent before a port is fixed. Pure models."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from pydantic import Field

from shared.messages.base import PortMessage, Refusal
from shared.messages.vm import IdentityBundle
from shared.parties import Name, Role


class ApprovalRequested(PortMessage):
    """The broker asks the donor whether this tenant may take this VM away."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.DONOR})

    tenant: Name
    vm_uuid: UUID
    recipient: Name | None = Field(default=None, description="Where it is to go, if the tenant named a provider.")


class DonorApproved(PortMessage):
    """The donor's records allow the port, and its node has read the live VM."""

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    identity: IdentityBundle
    partners: tuple[Name, ...] = Field(default=(), description="Where the donor lets its VMs go; empty means anywhere.")


class DonorRejected(PortMessage):
    """The donor refuses; every broken rule is named."""

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    refusals: tuple[Refusal, ...]
