"""What makes a VM itself, flat and comparable."""

from __future__ import annotations

from shared.domain.describe import describe
from shared.domain.parsing import DomainSource


def identity_snapshot(xml: DomainSource) -> dict[str, str]:
    """Return what makes this VM itself, flat and comparable: equal before and after a port, or the port went wrong."""
    facts = describe(xml)
    snapshot = {
        "uuid": facts.uuid,
        "name": facts.name,
        "arch": facts.arch,
        "machine": facts.machine,
        "memory_bytes": str(facts.memory_bytes),
        "vcpus": str(facts.vcpus),
        "cpu": " ".join([facts.cpu_mode, facts.cpu_model or "", *sorted(facts.cpu_features)]).strip(),
        "firmware": facts.firmware,
    }
    snapshot |= {f"disk.{disk.target}": f"{disk.bus} {disk.device}" for disk in facts.drives}
    snapshot |= {f"nic.{index}": f"{nic.mac} {nic.model}" for index, nic in enumerate(facts.nics)}
    return snapshot
