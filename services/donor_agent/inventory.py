"""Where each VM of this provider runs, from its nodes' heartbeats. Pure: time is an input, nothing is stored here.

The provider-side path to a VM: this agent (the cloud) → its nodes (the hosts) → their hypervisors. A node that is
silent keeps its VMs here: they are still this provider's, they just cannot be reached.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from services.donor_agent.approval import Located
from services.donor_agent.policy import Policy
from shared.clocks import is_late
from shared.messages.costs import EnergyModel
from shared.messages.nodes import NodeHeartbeat, OwnedVm
from shared.messages.vm import VmState, VmSummary


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node reported last; `heard_at` is by this agent's clock, `said_at` by the node's."""

    heard_at: datetime
    said_at: datetime
    vms: tuple[VmSummary, ...]
    problems: tuple[str, ...] = ()
    ports: tuple[UUID, ...] = ()
    set_aside: datetime | None = None
    """When a heartbeat was sent that came since and seemed older, by the node's clock."""
    energy: EnergyModel | None = None
    """What a port costs the host in energy, if it says so."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All nodes of the provider with what they reported last, by name."""

    nodes: Mapping[str, NodeView] = field(default_factory=dict)

    def heard(self, node: str, heartbeat: NodeHeartbeat, now: datetime) -> Inventory:
        """With this heartbeat; one that is older than the node's last one is set aside (see `is_late`)."""
        known = self.nodes.get(node)
        if known is not None and is_late(heartbeat.at, last=known.said_at, set_aside=known.set_aside):
            return replace(self, nodes={**self.nodes, node: replace(known, set_aside=heartbeat.at)})
        problems = heartbeat.problems or (() if heartbeat.healthy else ("the node says that it is not healthy",))
        view = NodeView(now, heartbeat.at, heartbeat.vms, problems, heartbeat.ports, energy=heartbeat.platform.energy)
        return replace(self, nodes={**self.nodes, node: view})

    def locate(self, vm_uuid: UUID, now: datetime) -> Located | None:
        """Where a VM is. If several nodes report it: where it runs, then the node heard last, then by name."""
        found = [
            (vm.state is not VmState.RUNNING, (now - view.heard_at).total_seconds(), node, vm, view.problems)
            for node, view in self.nodes.items()
            for vm in view.vms
            if vm.uuid == vm_uuid
        ]
        if not found:
            return None
        _, silent_s, node, vm, problems = min(found, key=lambda entry: entry[:3])
        return Located(vm, node, silent_s, problems)

    def forget(self, node: str, vm_uuid: UUID) -> Inventory:
        """Without a VM that has left for good, before the node's next heartbeat says so."""
        view = self.nodes.get(node)
        if view is None:
            return self
        return replace(
            self, nodes={**self.nodes, node: replace(view, vms=tuple(v for v in view.vms if v.uuid != vm_uuid))}
        )

    def arriving(self, own_ports: Collection[UUID], served: Collection[UUID]) -> frozenset[UUID]:
        """VMs that another provider is still sending here: new, not running, on a node with a port that is not ours.

        They are the other provider's until the broker commits the switchover; then they run, and are served here.
        """
        return frozenset(
            vm.uuid
            for view in self.nodes.values()
            if any(port not in own_ports for port in view.ports)
            for vm in view.vms
            if vm.state is not VmState.RUNNING and vm.uuid not in served
        )

    def owned(self, policy: Policy) -> tuple[OwnedVm, ...]:
        """Every VM with exactly one owner by the policy; a VM that two nodes report is listed once. Ordered by uuid."""
        chosen: dict[UUID, tuple[tuple[bool, float, str], OwnedVm]] = {}
        for node, view in self.nodes.items():
            for vm in view.vms:
                owners = policy.owners(vm.uuid, vm.name)
                if len(owners) != 1:
                    continue
                rank = (vm.state is not VmState.RUNNING, -view.heard_at.timestamp(), node)
                if vm.uuid not in chosen or rank < chosen[vm.uuid][0]:
                    chosen[vm.uuid] = rank, OwnedVm(vm=vm, tenant=owners[0], node=node)
        return tuple(owned for _, (_, owned) in sorted(chosen.items()))
