"""Whether a VM's CPU runs on a host: what to ask the node's libvirt, and what follows from its answer. Pure.

The node's own libvirt compares (`virConnectCompareHypervisorCPU`, with the VM's machine and accelerator), and the
recipient asks each node that could take the VM before it makes a quote. A digest of the host's CPU in the heartbeat
would save that question (some 20 ms over the bus, and only for nodes that fit otherwise), but it would not be true:
over the 145 models of libvirt 11.3 with QEMU 10.0, models minus the VM's disabled features were judged wrong by QEMU's
lists of missing features in 23 cases, and by libvirt's own expansion of each model in over 30, because versions of one
model differ in features of which neither list speaks. What refuses the guest at its start is libvirt's comparison, so
that is what is asked.

A guest that has its host's own CPU (host-passthrough, maximum) has no definition that could be compared: it moves
between hosts that are equal, with one QEMU and one kernel. So does one whose time stamp counter has a frequency of its
own. A guest with its host's model (host-model) runs with what libvirt made of it, which its donor tells: that is
compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.recipient_agent.capacity import NodeView
from shared.messages.base import Refusal
from shared.messages.vm import CpuMode, HypervisorVersions, VmDescription

NOT_COMPARED = "cpu_not_compared"
_HOSTS_OWN = frozenset({CpuMode.HOST_PASSTHROUGH, CpuMode.MAXIMUM, CpuMode.HOST_MODEL})


def is_compared(vm: VmDescription) -> bool:
    """Whether a node is to be asked: only a CPU with a definition of its own can be compared."""
    return vm.cpu.mode is CpuMode.CUSTOM or (vm.cpu.mode is CpuMode.HOST_MODEL and bool(vm.cpu.model))


def cpu_refusals(
    vm: VmDescription, donor: HypervisorVersions, node: NodeView, answer: tuple[Refusal, ...] | None
) -> Iterator[Refusal]:
    """What keeps the VM's CPU from running on a node. `answer` is the node's; None: it was not asked, or is silent."""
    if is_compared(vm):
        if answer is None:
            yield Refusal(
                code=NOT_COMPARED,
                rule="The node's libvirt must have compared the VM's CPU with its host's.",
                evidence=f"node {node.name} has not answered about {vm.cpu.model or 'the CPU'}",
            )
        else:
            yield from answer
    elif vm.cpu.mode in _HOSTS_OWN:
        yield from _unequal_hosts(vm, donor, node, f"whose CPU is its host's own ({vm.cpu.mode})")
    if any(need.kind == "tsc_frequency" for need in vm.needs):
        yield from _unequal_hosts(vm, donor, node, "whose time stamp counter has a frequency of its own")


def without_unasked(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """Where something else speaks against a VM, nobody was asked about its CPU, and there is no need to say so."""
    found = tuple(refusals)
    others = tuple(refusal for refusal in found if refusal.code != NOT_COMPARED)
    return others or found


def _unequal_hosts(vm: VmDescription, donor: HypervisorVersions, node: NodeView, which: str) -> Iterator[Refusal]:
    here = node.platform.versions
    differences = []
    if not donor.host_cpu or donor.host_cpu != here.host_cpu:
        differences.append(
            "the hosts' CPUs differ" if donor.host_cpu and here.host_cpu else "a host's CPU is not known"
        )
    if donor.qemu != here.qemu:
        theirs, ours = (".".join(map(str, each.qemu)) for each in (donor, here))
        differences.append(f"QEMU is {theirs} there and {ours} here")
    if vm.domain_type == "kvm" and donor.kernel != here.kernel:
        differences.append(f"the kernel is {donor.kernel} there and {here.kernel} here")
    if differences:
        yield Refusal(
            code="host_cpu_differs",
            rule=f"A VM {which} moves only between equal hosts.",
            evidence=f"node {node.name}: {'; '.join(differences)}",
        )
