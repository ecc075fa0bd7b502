"""The platform check: can this VM run on this node exactly as it is? One refusal per finding. Pure.

It runs before a quote and again before a reservation: one function, on facts alone, so that nothing is refused late
that was known before. Room is `capacity`'s, the choice among nodes is `placement`'s, the XML is `domain`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.recipient_agent.capacity import Held, NodeView
from services.recipient_agent.cpu_check import cpu_refusals, without_unasked
from services.recipient_agent.device_check import device_refusals
from services.recipient_agent.firmware_choice import choose_firmware
from services.recipient_agent.known_bad import known_bad_refusals
from services.recipient_agent.network_terms import NetworkAsk, addresses_of, choose_network
from services.recipient_agent.places import HostChoice, NodePlaces
from shared.messages.base import Refusal
from shared.messages.host import OtherArchitecture
from shared.messages.vm import HypervisorVersions, VmDescription

Version = tuple[int, int, int]
NO_ASK = NetworkAsk()
"""Nothing is asked for the VM's addresses: what both sides can do."""


@dataclass(frozen=True, slots=True)
class HostJudgement:
    """What speaks against a node, and what the VM would get of it; the choice is whole where nothing speaks against."""

    refusals: tuple[Refusal, ...]
    choice: HostChoice


def judge_host(
    vm: VmDescription,
    donor: HypervisorVersions,
    node: NodeView,
    *,
    places: NodePlaces,
    silent_s: float,
    silent_after_s: float,
    cpu: tuple[Refusal, ...] | None = None,
    network: NetworkAsk = NO_ASK,
) -> HostJudgement:
    """Everything about a node that keeps the VM from running there unchanged, for quote and reservation alike.

    `cpu` is what the node's own libvirt said of the VM's CPU; None: it was not asked. `network` is what is asked for
    the VM's addresses.
    """
    kept = choose_network(vm, node.platform, places.bridges, network, node=node.name)
    firmware = choose_firmware(vm, node.platform.firmware_offers, override=places.uefi_loader, node=node.name)
    refusals = (
        *_alive(node, silent_s, silent_after_s),
        *_kind_of_host(vm, node),
        *cpu_refusals(vm, donor, node, cpu),
        *_machine(vm, node),
        *device_refusals(vm, node.platform, node=node.name),
        *((firmware,) if isinstance(firmware, Refusal) else ()),
        *_boot_files(vm, node, places),
        *_versions(donor, node),
        *known_bad_refusals(vm, donor, node.platform.versions, node=node.name),
        *_disks(vm, node),
        *(_on(node, refusal) for refusal in kept.refusals),
    )
    chosen = None if isinstance(firmware, Refusal) else firmware
    return HostJudgement(without_unasked(refusals), HostChoice(chosen, kept.cards, kept))


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
    """UUID, name, MACs and addresses must be free on all nodes of the provider. Leave the VM's own reservation out of
    ``held``.
    """
    nodes, held = list(nodes), list(held)
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
    _note_addresses(found, vm, nodes, held)
    return tuple(found.values())


def _note_addresses(
    found: dict[tuple[str, str], Refusal], vm: VmDescription, nodes: Iterable[NodeView], held: Iterable[Held]
) -> None:
    """An address that an earlier port has kept is in no inventory, so all that came by a port count here."""
    mine = set(addresses_of(vm))
    there = [(s.uuid, s.addresses, f"VM {s.name} on node {node.name}") for node in nodes for s in node.vms]
    came = [(h.vm_uuid, h.addresses, f"VM {h.vm_name} of port {h.port_id}") for h in held]
    rule = "A VM's addresses must be free at the recipient."
    for uuid, addresses, where in (*there, *came):
        if uuid != vm.uuid:
            for address in sorted(mine.intersection(addresses)):
                _note(found, "address_collision", rule, f"{address} belongs to {where}")


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


def _kind_of_host(vm: VmDescription, node: NodeView) -> Iterator[Refusal]:
    host, other = node.platform, _other_architecture(vm, node)
    accelerators = host.accelerators if other is None else other.accelerators
    if vm.architecture != host.architecture and other is None:
        yield Refusal(
            code="architecture_unsupported",
            rule="A VM keeps its processor architecture.",
            evidence=f"the VM is {vm.architecture}, node {node.name} is {host.architecture}",
        )
    if vm.domain_type not in accelerators:
        yield Refusal(
            code="accelerator_unsupported",
            rule="A VM keeps its kind of virtualisation (kvm, or qemu for software emulation).",
            evidence=f"the VM is {vm.domain_type}, node {node.name} offers {_listed(accelerators)}",
        )


def _other_architecture(vm: VmDescription, node: NodeView) -> OtherArchitecture | None:
    """What the node offers to guests of the VM's architecture, where that is not its own."""
    others = node.platform.other_architectures if vm.architecture != node.platform.architecture else ()
    return next((each for each in others if each.architecture == vm.architecture), None)


def _machine(vm: VmDescription, node: NodeView) -> Iterator[Refusal]:
    host, other = node.platform, _other_architecture(vm, node)
    # The lasting definition may have a machine of its own, which the VM gets at its next start.
    for machine in dict.fromkeys((vm.machine, *(need.value for need in vm.needs if need.kind == "machine"))):
        if machine in host.machines and (other is None or machine not in other.without):
            continue
        if machine in host.machine_aliases:
            evidence = f"{machine} is an alias; on node {node.name} it means {host.machine_aliases[machine]}"
        else:
            evidence = f"{machine} is not known to QEMU {_dotted(host.versions.qemu)} on node {node.name}"
        yield Refusal(
            code="machine_type_unsupported",
            rule="The VM's versioned machine type must exist on the host, also the one of its next start.",
            evidence=evidence,
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


def _boot_files(vm: VmDescription, node: NodeView, places: NodePlaces) -> Iterator[Refusal]:
    for path in (vm.kernel, vm.initrd):
        if path and not places.has_boot_file(path):
            yield Refusal(
                code="boot_file_missing",
                rule="A VM that boots directly finds kernel and initrd here at the donor's paths.",
                evidence=f"{path} is in none of {_listed(places.boot_dirs)} on node {node.name}",
            )


def _on(node: NodeView, refusal: Refusal) -> Refusal:
    return refusal.model_copy(update={"evidence": f"node {node.name}: {refusal.evidence}"})


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values) or "none"
