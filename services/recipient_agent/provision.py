"""Whether the VM that arrived is the one that was reserved: the final identity against the donor's. Pure.

The node compares the guest ABI of the live XML; what is here compares what this agent knows from elsewhere, so that no
single process has to be trusted with "nothing changed".
"""

from __future__ import annotations

from services.recipient_agent.reservation import Reservation
from shared.domain import DomainXmlError, guest_abi_differences
from shared.messages.base import Refusal
from shared.messages.porting import ProvisionVm
from shared.messages.vm import VmSummary

MAX_DIFFERENCES = 50


def provision_refusals(reservation: Reservation, command: ProvisionVm) -> tuple[Refusal, ...]:
    """Where the command does not speak of the VM that was reserved; empty when it does."""
    found = []
    if command.vm_uuid != reservation.vm.uuid:
        found.append(f"vm_uuid: reserved {reservation.vm.uuid}, command says {command.vm_uuid}")
    try:
        found += guest_abi_differences(reservation.donor_xml, command.donor_xml)
    except DomainXmlError as error:
        found.append(str(error))
    return tuple(
        Refusal(code="identity_differs", rule="Only the VM that was reserved is provisioned.", evidence=each)
        for each in found
    )


def identity_differences(
    reservation: Reservation, seen: VmSummary | None, from_node: tuple[str, ...]
) -> tuple[str, ...]:
    """What is different from the donor's VM: the node's findings, and those of its inventory if it lists the VM yet."""
    found = list(from_node)
    if seen is not None:
        vm = reservation.vm
        pairs: dict[str, tuple[object, object]] = {
            "name": (vm.name, seen.name),
            "memory_bytes": (vm.memory_bytes, seen.memory_bytes),
            "vcpus": (vm.vcpus, seen.vcpus),
            "macs": (sorted(nic.mac for nic in vm.nics), sorted(seen.macs)),
        }
        found += [f"{what}: {was} became {now}" for what, (was, now) in pairs.items() if was != now]
    return tuple(dict.fromkeys(found))[:MAX_DIFFERENCES]
