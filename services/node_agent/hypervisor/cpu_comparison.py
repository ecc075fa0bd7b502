"""A VM's CPU as libvirt compares it with its host's: built from facts, so that no text of another host reaches libvirt.

Pure.
"""

from __future__ import annotations

from lxml import etree

from shared.messages.vm import CpuFacts, CpuMode

POLICIES = frozenset({"require", "disable", "force", "optional", "forbid"})


def cpu_xml(cpu: CpuFacts) -> str:
    """The <cpu> element to compare. Raises `ValueError` for a CPU that has no definition of its own."""
    # A host's model that a guest runs with was expanded when it started: it is a definition like any other.
    if cpu.mode not in {CpuMode.CUSTOM, CpuMode.HOST_MODEL} or not cpu.model:
        raise ValueError(f"a CPU of mode {cpu.mode} has nothing to compare")
    root = etree.Element("cpu", mode="custom", match="exact")
    etree.SubElement(root, "model", fallback="forbid").text = cpu.model
    if cpu.vendor:
        etree.SubElement(root, "vendor").text = cpu.vendor
    for feature in cpu.features:
        if feature.policy not in POLICIES:
            raise ValueError(f"feature {feature.name} has the policy {feature.policy!r}, which libvirt does not know")
        etree.SubElement(root, "feature", policy=feature.policy, name=feature.name)
    return etree.tostring(root, encoding="unicode")
