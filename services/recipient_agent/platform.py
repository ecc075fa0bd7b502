"""The platform check: can this VM run on this node exactly as it is? One refusal per finding. Pure.

It runs before a quote, and again, with the XML, before a reservation; nothing moves before it passed. Room is
`capacity`'s, the choice among nodes is `placement`'s, paths and bridges in the XML are `domain`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.recipient_agent.capacity import Held, NodeView
from services.recipient_agent.known_bad import known_bad_refusals
from shared.messages.base import Refusal
from shared.messages.vm import HypervisorVersions, Nic, VmDescription

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Bridges:
    """How a donor's bridge names map to this provider's."""

    by_name: dict[str, str]
    default: str = ""

    def here(self, theirs: str) -> str:
        """Our bridge for theirs: as mapped, else the default, else the one of the same name."""
        return self.by_name.get(theirs) or self.default or theirs

    def of(self, nic: Nic) -> str | None:
        """Our bridge for a card: empty for one that stays in QEMU's own network, None where the map must name one.

        A VLAN is a network of its own: `by_name` has it as ``BRIDGE.TAG``, with several tags as ``BRIDGE.TAG+TAG``, and
        nothing else stands for it. A card of kind ``user`` goes where ``user`` is mapped to, if it is.
        """
        if nic.vlan is not None and nic.vlan.tags:
            return self.by_name.get(vlan_name(nic))
        if nic.kind == "user":
            return self.by_name.get("user", "")
        return self.here(network_name(nic))


def network_name(nic: Nic) -> str:
    """What the donor calls the network of a card."""
    return nic.bridge or nic.network or nic.kind


def vlan_name(nic: Nic) -> str:
    """The same of a card in a VLAN."""
    tags = nic.vlan.tags if nic.vlan is not None else ()
    return f"{network_name(nic)}.{'+'.join(map(str, tags))}"


def platform_refusals(
    vm: VmDescription,
    donor: HypervisorVersions,
    node: NodeView,
    *,
    bridges: Bridges,
    silent_s: float,
    silent_after_s: float,
) -> tuple[Refusal, ...]:
    """Everything about a node that keeps the VM from running there unchanged; empty when it can."""
    return (
        *_alive(node, silent_s, silent_after_s),
        *_processor(vm, node),
        *_machine(vm, node),
        *_versions(donor, node),
        *known_bad_refusals(vm, donor, node.platform.versions, node=node.name),
        *_disks(vm, node),
        *_networks(vm, node, bridges),
    )


def blocker_refusals(vm: VmDescription) -> tuple[Refusal, ...]:
    """What the VM itself has that no host can take over. The donor has checked it too; nobody need trust that."""
    return tuple(
        Refusal(
            code="vm_blocked",
            rule="A VM moves live only if all of it can be moved: no part may be bound to its host.",
            evidence=blocker,
        )
        for blocker in vm.blockers
    )


def collision_refusals(vm: VmDescription, nodes: Iterable[NodeView], held: Iterable[Held]) -> tuple[Refusal, ...]:
    """UUID, name and MACs must be free on all nodes of the provider. Leave the VM's own reservation out of ``held``."""
    mine = {nic.mac for nic in vm.nics}
    found: dict[tuple[str, str], Refusal] = {}
    present = [(s.uuid, s.name, s.macs, f"VM {s.name} on node {node.name}") for node in nodes for s in node.vms]
    coming = [(h.vm_uuid, h.vm_name, h.macs, f"the VM of port {h.port_id}") for h in held if h.reserved]
    for uuid, name, macs, where in (*present, *coming):
        if uuid == vm.uuid:
            _note(found, "uuid_collision", "A VM's UUID must be free at the recipient.", f"{uuid} is {where}")
        elif name == vm.name:
            _note(found, "name_collision", "A VM's name must be free at the recipient.", f"{name} is {where}")
        if uuid != vm.uuid:
            for mac in sorted(mine.intersection(macs)):
                _note(found, "mac_collision", "A VM's MACs must be free at the recipient.", f"{mac} belongs to {where}")
    return tuple(found.values())


def _note(found: dict[tuple[str, str], Refusal], code: str, rule: str, evidence: str) -> None:
    found.setdefault((code, evidence), Refusal(code=code, rule=rule, evidence=evidence))


def _alive(node: NodeView, silent_s: float, silent_after_s: float) -> Iterator[Refusal]:
    if silent_s > silent_after_s:
        yield Refusal(
            code="node_unreachable",
            rule=f"A node must have been heard within {silent_after_s:g} s.",
            evidence=f"node {node.name} has been silent for {silent_s:.0f} s",
        )
    elif node.problems:
        yield Refusal(
            code="node_unhealthy",
            rule="A node must be healthy.",
            evidence=f"node {node.name}: {'; '.join(node.problems)}",
        )


def _processor(vm: VmDescription, node: NodeView) -> Iterator[Refusal]:
    host = node.platform
    if vm.architecture != host.architecture:
        yield Refusal(
            code="architecture_unsupported",
            rule="A VM keeps its processor architecture.",
            evidence=f"the VM is {vm.architecture}, node {node.name} is {host.architecture}",
        )
    if vm.domain_type not in host.accelerators:
        yield Refusal(
            code="accelerator_unsupported",
            rule="A VM keeps its kind of virtualisation (kvm, or qemu for software emulation).",
            evidence=f"the VM is {vm.domain_type}, node {node.name} offers {_listed(host.accelerators)}",
        )
    if vm.cpu_model not in host.cpu_models:
        yield Refusal(
            code="cpu_model_unusable",
            rule="The VM's CPU model must be usable on the host, since the guest keeps it.",
            evidence=f"{vm.cpu_model or '(none)'} is not usable on node {node.name} (own: {_first(host.cpu_models)})",
        )


def _machine(vm: VmDescription, node: NodeView) -> Iterator[Refusal]:
    host = node.platform
    if vm.machine not in host.machines:
        yield Refusal(
            code="machine_type_unsupported",
            rule="The VM's versioned machine type must exist on the host.",
            evidence=f"{vm.machine} is not known to QEMU {_dotted(host.versions.qemu)} on node {node.name}",
        )
    if vm.firmware not in host.firmwares:
        yield Refusal(
            code="firmware_unsupported",
            rule="The VM boots by the same kind of firmware.",
            evidence=f"the VM boots by {vm.firmware}, node {node.name} offers {_listed(host.firmwares)}",
        )


def _versions(donor: HypervisorVersions, node: NodeView) -> Iterator[Refusal]:
    here = node.platform.versions
    if here.qemu < donor.qemu:
        yield Refusal(
            code="qemu_too_old",
            rule="The recipient's QEMU is not older than the donor's.",
            evidence=f"node {node.name} runs {_dotted(here.qemu)}, the donor {_dotted(donor.qemu)}",
        )
    if here.libvirt < donor.libvirt:
        yield Refusal(
            code="libvirt_too_old",
            rule="The recipient's libvirt is not older than the donor's.",
            evidence=f"node {node.name} runs {_dotted(here.libvirt)}, the donor {_dotted(donor.libvirt)}",
        )


def _disks(vm: VmDescription, node: NodeView) -> Iterator[Refusal]:
    formats = node.platform.disk_formats
    for disk in vm.disks:
        if disk.empty:
            continue
        if disk.format not in formats:
            yield Refusal(
                code="disk_format_unsupported",
                rule="A disk keeps its image format.",
                evidence=f"disk {disk.target} is {disk.format}, node {node.name} takes {_listed(formats)}",
            )
        if disk.virtual_size_bytes == 0 or disk.virtual_size_bytes % 512:
            yield Refusal(
                code="disk_size_invalid",
                rule="A disk has a size, in whole sectors of 512 bytes.",
                evidence=f"disk {disk.target} has {disk.virtual_size_bytes} bytes",
            )


def _networks(vm: VmDescription, node: NodeView, bridges: Bridges) -> Iterator[Refusal]:
    has = _listed(node.platform.bridges)
    found = {(bridges.of(nic), vlan_name(nic) if nic.vlan else network_name(nic)) for nic in vm.nics}
    for ours, theirs in sorted(found, key=str):
        if ours is None:
            yield Refusal(
                code="vlan_not_mapped",
                rule="A VLAN is carried only where the provider's map names a bridge for it.",
                evidence=f"the map has no bridge for the donor's {theirs}",
            )
        elif ours and ours not in node.platform.bridges:
            yield Refusal(
                code="bridge_missing",
                rule="Each network card needs a bridge on the host.",
                evidence=f"the donor's {theirs} is {ours} here; node {node.name} has {has}",
            )


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values) or "none"


def _first(values: tuple[str, ...]) -> str:
    return values[0] if values else "unknown"
