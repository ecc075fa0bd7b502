"""What libvirt says of a guest's CPU: whether it runs on this host, and what the two have in common. Blocking."""

from __future__ import annotations

from dataclasses import dataclass

import libvirt

from services.node_agent.hypervisor.cpu_comparison import host_cpu_xml, read_cpu
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection
from shared.messages.vm import CpuFacts


@dataclass(frozen=True, slots=True)
class Under:
    """What the guest runs with: it decides which features QEMU can give."""

    architecture: str
    machine: str
    accelerator: str


def compare(connection: LibvirtConnection, cpu_xml: str, under: Under) -> str | None:
    """Why a guest with this CPU does not run here; None where it does. Raises `libvirt.libvirtError`."""
    flags = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
    try:
        connection.compareHypervisorCPU(None, under.architecture, under.machine, under.accelerator, cpu_xml, flags)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_CPU_INCOMPATIBLE:
            raise
        return error.get_error_message() or str(error)
    return None


def common(connection: LibvirtConnection, cpu_xml: str, under: Under) -> CpuFacts | None:
    """The best CPU of features that both the given one and this host's have, if it runs here; None where libvirt knows
    none. Raises `libvirt.libvirtError`, also where the two are of different vendors.
    """
    words = under.architecture, under.machine, under.accelerator
    host = host_cpu_xml(connection.getDomainCapabilities(None, *words))
    if host is None:
        return None
    flags = libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE
    found = connection.baselineHypervisorCPU(None, *words, [cpu_xml, host], flags)
    return read_cpu(found) if compare(connection, found, under) is None else None
