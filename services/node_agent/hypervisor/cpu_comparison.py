"""A VM's CPU as libvirt compares it with its host's: built from facts, so that no text of another host reaches libvirt.
And the host's own CPU as one to compare with; what libvirt found in common, as facts and in words. Pure.
"""

from __future__ import annotations

from lxml import etree

from services.node_agent.hypervisor.host_capabilities import parse_capabilities
from shared.messages.vm import CpuFacts, CpuFeature, CpuMode

POLICIES = frozenset({"require", "disable", "force", "optional", "forbid"})


def cpu_xml(cpu: CpuFacts) -> str:
    """The <cpu> element to compare. Raises `ValueError` for a CPU that has no definition of its own."""
    # A host's model that a guest runs with was expanded when it started: it is a definition like any other.
    if cpu.mode not in {CpuMode.CUSTOM, CpuMode.HOST_MODEL} or not cpu.model:
        raise ValueError(f"a CPU of mode {cpu.mode} has nothing to compare")
    return _xml(cpu)


def _xml(cpu: CpuFacts) -> str:
    root = etree.Element("cpu", mode="custom", match="exact")
    etree.SubElement(root, "model", fallback="forbid").text = cpu.model
    if cpu.vendor:
        etree.SubElement(root, "vendor").text = cpu.vendor
    for feature in cpu.features:
        if feature.policy not in POLICIES:
            raise ValueError(f"feature {feature.name} has the policy {feature.policy!r}, which libvirt does not know")
        etree.SubElement(root, "feature", policy=feature.policy, name=feature.name)
    return etree.tostring(root, encoding="unicode")


def host_cpu_xml(domain_capabilities_xml: str) -> str | None:
    """The host's own CPU as libvirt would give it to a guest; None where it gives none."""
    mode = parse_capabilities(domain_capabilities_xml).find("cpu/mode[@name='host-model'][@supported='yes']")
    if mode is None or not mode.findtext("model"):
        return None
    return _xml(_facts(mode))


def read_cpu(xml: str) -> CpuFacts:
    """libvirt's <cpu> as facts."""
    return _facts(parse_capabilities(xml))


def _facts(cpu: etree._Element) -> CpuFacts:
    features = (CpuFeature(name=each.get("name", ""), policy=each.get("policy", "")) for each in cpu.findall("feature"))
    return CpuFacts(
        mode=CpuMode.CUSTOM,
        model=cpu.findtext("model") or "",
        vendor=cpu.findtext("vendor") or "",
        features=tuple(features),
    )


def in_words(cpu: CpuFacts) -> str:
    """Such as "Nehalem with aes, pcid, without hle"."""
    without = [each.name for each in cpu.features if each.policy in {"disable", "forbid"}]
    more = [each.name for each in cpu.features if each.name not in without]
    parts = (f"{word} {', '.join(names)}" for word, names in (("with", more), ("without", without)) if names)
    return " ".join((cpu.model, ", ".join(parts))).strip()
