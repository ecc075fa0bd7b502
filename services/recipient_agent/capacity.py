"""What this provider's nodes have, and what is left for new VMs: heartbeats minus VMs minus reservations. Pure.

A reservation counts until its VM shows up in a heartbeat of its node (memory, vCPUs) or the port ends (disk, whose file
grows while it is filled). What is counted twice for a moment errs towards refusing, never towards overselling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.clocks import is_late
from shared.domain import NEXT_MEMORY, largest_need
from shared.messages.base import Refusal
from shared.messages.lanes import LaneEndpoint
from shared.messages.nodes import NodeHeartbeat
from shared.messages.vm import HostCapacity, HostPlatform, VmDescription, VmState, VmSummary

MIB = 1 << 20
GIB = 1 << 30


class Overcommit(BaseModel):
    """How much more is sold than is there. 1.0 sells what is there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vcpus: Annotated[float, Field(gt=0, le=100)] = Field(default=4.0, description="vCPUs sold per host CPU.")
    memory: Annotated[float, Field(gt=0, le=10)] = Field(
        default=1.0, description="Memory sold per memory there; above 1.0 free memory is no longer looked at."
    )
    disk: Annotated[float, Field(gt=0, le=10)] = Field(
        default=1.0, description="Disk sold per disk there; above 1.0 free disk space is no longer looked at."
    )
    memory_reserve_mib: Annotated[int, Field(ge=0, le=2**30)] = Field(
        default=512, description="MiB per node kept for the host."
    )
    disk_reserve_gib: Annotated[int, Field(ge=0, le=2**30)] = Field(
        default=1, description="GiB per node kept for the host."
    )


class Quota(BaseModel):
    """The most that may come in; 0 means no limit. Counts what was ported in and is still here, and reservations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vms: Annotated[int, Field(ge=0, le=2**30)] = Field(default=0, description="VMs.")
    vcpus: Annotated[int, Field(ge=0, le=2**30)] = Field(default=0, description="vCPUs.")
    memory_mib: Annotated[int, Field(ge=0, le=2**30)] = Field(default=0, description="Memory, MiB.")
    disk_gib: Annotated[int, Field(ge=0, le=2**30)] = Field(default=0, description="Virtual size of all disks, GiB.")


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node reported last; `heard_at` is by this agent's clock, `said_at` by the node's."""

    name: str
    heard_at: datetime
    said_at: datetime
    problems: tuple[str, ...]
    platform: HostPlatform
    capacity: HostCapacity
    lane: LaneEndpoint
    vms: tuple[VmSummary, ...]
    ports: tuple[UUID, ...] = ()
    set_aside: datetime | None = None
    """When a heartbeat was sent that came since and seemed older, by the node's clock."""


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation, or a VM that came by a port and is still here, as far as capacity and collisions care."""

    port_id: UUID
    tenant: str
    node: str
    vm_uuid: UUID
    vm_name: str
    macs: tuple[str, ...]
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    huge_pages: tuple[str, ...] = ()
    """The sizes of huge pages that its memory lies on, as the VM's needs name them."""
    addresses: tuple[str, ...] = ()
    care_of: tuple[str, ...] = ()
    """Addresses of this provider's pools to which others translate the VM's own."""
    reserved: bool = True
    """Whether it still reserves room; False when the VM is here for good and a heartbeat counts it."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is left; may be negative where more was sold than is there."""

    vcpus: int
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Nodes:
    """All nodes of the provider that were heard since this agent started."""

    views: Mapping[str, NodeView] = field(default_factory=dict)

    def heard(self, node: str, heartbeat: NodeHeartbeat, now: datetime) -> Nodes:
        """With this heartbeat; one that is older than the node's last one is set aside (see `is_late`)."""
        known = self.views.get(node)
        if known is not None and is_late(heartbeat.at, last=known.said_at, set_aside=known.set_aside):
            return replace(self, views={**self.views, node: replace(known, set_aside=heartbeat.at)})
        view = NodeView(
            name=node,
            heard_at=now,
            said_at=heartbeat.at,
            problems=heartbeat.problems or (() if heartbeat.healthy else ("the node says that it is not healthy",)),
            platform=heartbeat.platform,
            capacity=heartbeat.capacity,
            lane=heartbeat.lane,
            vms=heartbeat.vms,
            ports=heartbeat.ports,
        )
        return replace(self, views={**self.views, node: view})

    def in_order(self) -> tuple[NodeView, ...]:
        """All nodes, by name."""
        return tuple(self.views[name] for name in sorted(self.views))

    def serves(self, vm_uuid: UUID) -> VmSummary | None:
        """The VM as some node reports it; None if none does."""
        return next((vm for view in self.in_order() for vm in view.vms if vm.uuid == vm_uuid), None)

    def busy_with(self, port_id: UUID) -> bool:
        """Whether a node reports a transfer of this port."""
        return any(port_id in view.ports for view in self.views.values())


def room_on(node: NodeView, held: Iterable[Held], overcommit: Overcommit) -> Room:
    """What is left on a node for a new VM; its own reservation must not be in ``held``."""
    here = [h for h in held if h.node == node.name and h.reserved]
    counted = {vm.uuid for vm in node.vms}
    coming = [h for h in here if h.vm_uuid not in counted]
    awake = [vm for vm in node.vms if vm.state is not VmState.SHUT_OFF]
    capacity = node.capacity
    coming_memory = sum(h.memory_bytes for h in coming)
    reserve = overcommit.memory_reserve_mib * MIB
    memory = (
        int(capacity.memory_bytes * overcommit.memory) - reserve - sum(vm.memory_bytes for vm in awake) - coming_memory
    )
    if overcommit.memory <= 1.0:
        memory = min(memory, capacity.memory_free_bytes - reserve - coming_memory)
    disk_reserve = overcommit.disk_reserve_gib * GIB
    disk = int(capacity.disk_bytes * overcommit.disk) - disk_reserve - sum(vm.disk_bytes for vm in node.vms)
    # A disk that is being filled is in the heartbeat's sum already, and not yet on the file system.
    disk -= sum(h.disk_bytes for h in coming)
    if overcommit.disk <= 1.0:
        disk = min(disk, capacity.disk_free_bytes - disk_reserve - sum(h.disk_bytes for h in here))
    vcpus = int(capacity.vcpus * overcommit.vcpus) - sum(vm.vcpus for vm in awake) - sum(h.vcpus for h in coming)
    return Room(vcpus, memory, disk)


def room_refusals(vm: VmDescription, node: NodeView, room: Room) -> Iterator[Refusal]:
    """Where a VM is larger than what is left on a node."""
    if vm.vcpus > room.vcpus:
        yield Refusal(
            code="vcpus_short",
            rule="The node must have the VM's vCPUs left, after overcommit and reservations.",
            evidence=f"node {node.name}: {vm.vcpus} needed, {max(room.vcpus, 0)} left",
        )
    if vm.memory_bytes > room.memory_bytes:
        yield Refusal(
            code="memory_short",
            rule="The node must have the VM's memory left, after overcommit and reservations.",
            evidence=f"node {node.name}: {vm.memory_bytes} bytes needed, {max(room.memory_bytes, 0)} left",
        )
    later = largest_need(vm.needs, NEXT_MEMORY)
    if later > node.capacity.memory_bytes:
        yield Refusal(
            code="memory_short",
            rule="The node must have as much memory as the VM gets at its next start.",
            evidence=f"node {node.name}: {later} bytes at the next start, it has {node.capacity.memory_bytes}",
        )
    needed = disk_bytes(vm)
    if needed > room.disk_bytes:
        yield Refusal(
            code="disk_space_short",
            rule="The node must have room for the full virtual size of all disks.",
            evidence=f"node {node.name}: {needed} bytes needed, {max(room.disk_bytes, 0)} left",
        )


def quota_refusals(vm: VmDescription, held: Iterable[Held], *, tenant: str | None, quota: Quota) -> Iterator[Refusal]:
    """Where one more VM breaks a quota: of this tenant, or of all tenants together when ``tenant`` is None."""
    counted = [h for h in held if tenant is None or h.tenant == tenant]
    whose, code = ("all tenants together", "quota_total") if tenant is None else (f"tenant {tenant}", "quota_tenant")
    uses = (
        ("VMs", quota.vms, len(counted), 1, 1),
        ("vCPUs", quota.vcpus, sum(h.vcpus for h in counted), vm.vcpus, 1),
        ("MiB of memory", quota.memory_mib, sum(h.memory_bytes for h in counted), vm.memory_bytes, MIB),
        ("GiB of disk", quota.disk_gib, sum(h.disk_bytes for h in counted), disk_bytes(vm), GIB),
    )
    for what, limit, used, wanted, unit in uses:
        if limit and used + wanted > limit * unit:
            yield Refusal(
                code=code,
                rule=f"At most {limit} {what} may be ported in by {whose}.",
                evidence=f"{used / unit:g} used, {wanted / unit:g} more asked for",
            )


def disk_bytes(vm: VmDescription) -> int:
    """The virtual size of all disks of a VM; of one that is carried as a file its size, where that is larger. Memory
    that is kept in files counts, too.
    """
    return sum(max(disk.virtual_size_bytes, disk.file_bytes) for disk in vm.disks) + vm.memory_file_bytes
