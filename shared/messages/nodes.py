"""The conversation inside one provider: a node agent with its agents, and the agents' reports to the broker.

Pure models.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from pydantic import Field

from shared.messages.base import Bytes, Code, Count, Message, PortMessage, Refusal, Seconds, Text, Timestamp, Value
from shared.messages.catalogue import Catalogue
from shared.messages.lanes import LaneEndpoint
from shared.messages.vm import CpuFacts, HostCapacity, HostPlatform, IdentityBundle, VmSummary
from shared.parties import Name, Role

SILENT = "For how long each node has not been heard by this agent."


class NodeHeartbeat(Message):
    """A node is alive; what it has, runs and can run. Sent to both agents of its provider, every few seconds."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.RECIPIENT})
    LIFETIME: ClassVar = timedelta(seconds=60)

    at: Timestamp
    healthy: bool
    problems: tuple[Text, ...] = ()
    agent_version: Text
    platform: HostPlatform
    capacity: HostCapacity
    lane: LaneEndpoint
    vms: tuple[VmSummary, ...]
    ports: tuple[UUID, ...] = Field(default=(), description="Ports that have a half on this node now.")


class DescribeVm(PortMessage):
    """Read the live VM for its identity bundle."""

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.NODE})

    vm_uuid: UUID
    port_may_follow: bool = Field(
        default=True, description="A port of it may follow, so what it lies on is read by then. False: only to show it."
    )


class VmDescribed(PortMessage):
    """The identity bundle of a running VM."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.DONOR})

    identity: IdentityBundle


class DescribeFailed(PortMessage):
    """The VM could not be read."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.DONOR})

    code: Code
    detail: Text


class CheckVm(PortMessage):
    """Would this VM's CPU run here? Asked of each node that could take the VM, before a quote."""

    SENDERS: ClassVar = frozenset({Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.NODE})
    LIFETIME: ClassVar = timedelta(seconds=60)

    architecture: Text
    domain_type: Text
    machine: Text
    cpu: CpuFacts


class VmChecked(PortMessage):
    """What the node's libvirt has against it; nothing where the VM's CPU runs there as it is."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.RECIPIENT})
    LIFETIME: ClassVar = timedelta(seconds=60)

    refusals: tuple[Refusal, ...] = Field(default=(), max_length=16)


class ExpectOutbound(PortMessage):
    """This VM leaves as soon as its recipient is ready: read by then what it will offer. A hint, without an answer."""

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.NODE})

    vm_uuid: UUID


class EraseQuarantine(PortMessage):
    """The quarantine of this port's disks is over: erase them."""

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.NODE})


class OwnedVm(Value):
    """One VM of a provider's inventory, with its owner."""

    vm: VmSummary
    tenant: Name
    node: Name


class InventoryReported(Message):
    """What a provider serves, for the broker's registry. Sent when it changes and at intervals, by the donor agent."""

    SENDERS: ClassVar = frozenset({Role.DONOR})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})
    LIFETIME: ClassVar = timedelta(minutes=5)

    at: Timestamp
    vms: tuple[OwnedVm, ...]
    nodes_silent_s: dict[Name, Seconds] = Field(default_factory=dict, description=SILENT)


class CapacityReported(Message):
    """What a provider can take, in sum; sent by the recipient agent, so that ``provider list`` has something to say."""

    SENDERS: ClassVar = frozenset({Role.RECIPIENT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})
    LIFETIME: ClassVar = timedelta(minutes=5)

    at: Timestamp
    nodes_healthy: Count
    nodes: Count
    memory_free_bytes: Bytes
    disk_free_bytes: Bytes
    nodes_silent_s: dict[Name, Seconds] = Field(default_factory=dict, description=SILENT)
    catalogue: Catalogue | None = Field(default=None, description="What is sold; null: nothing is said of it.")


class ClockDiffers(Message):
    """The broker tells an agent that their clocks differ; by the answer's own time the agent measures by how much."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.DONOR, Role.RECIPIENT})

    reported_at: Timestamp = Field(description="When the report was sent that this answers, by the agent's clock.")
    ahead_s: float = Field(
        ge=-7e9,
        le=7e9,
        allow_inf_nan=False,
        description="By how much the agent's clock is ahead of the broker's; negative: behind.",
    )
