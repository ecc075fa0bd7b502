"""CPUs that libvirt compares are built from facts, and what it found is told in words."""

from __future__ import annotations

import pytest

from services.node_agent.hypervisor.cpu_comparison import cpu_xml, host_cpu_xml, in_words, read_cpu
from shared.messages.vm import CpuFacts, CpuFeature, CpuMode


def test_features_and_vendor_are_compared_and_not_the_name_alone() -> None:
    """A VM without TSX runs where there is none; a required feature must be there."""
    cpu = CpuFacts(
        mode=CpuMode.CUSTOM,
        model="Skylake-Client-IBRS",
        vendor="Intel",
        features=(CpuFeature(name="hle", policy="disable"), CpuFeature(name="pku", policy="require")),
    )
    assert cpu_xml(cpu) == (
        '<cpu mode="custom" match="exact"><model fallback="forbid">Skylake-Client-IBRS</model><vendor>Intel</vendor>'
        '<feature policy="disable" name="hle"/><feature policy="require" name="pku"/></cpu>'
    )


def test_no_text_of_the_donor_becomes_xml() -> None:
    """It is a value, whatever it contains, and the donor's own XML is not looked at."""
    cpu = CpuFacts(mode=CpuMode.CUSTOM, model="</model><topology/>", expanded="<cpu><evil/></cpu>")
    assert cpu_xml(cpu) == (
        '<cpu mode="custom" match="exact"><model fallback="forbid">&lt;/model&gt;&lt;topology/&gt;</model></cpu>'
    )


def test_what_a_hosts_model_was_made_of_is_a_definition() -> None:
    """Not the mode, which would mean this host's own."""
    assert cpu_xml(CpuFacts(mode=CpuMode.HOST_MODEL, model="EPYC")) == (
        '<cpu mode="custom" match="exact"><model fallback="forbid">EPYC</model></cpu>'
    )


@pytest.mark.parametrize(
    "cpu",
    [
        CpuFacts(mode=CpuMode.MAXIMUM),
        CpuFacts(mode=CpuMode.CUSTOM),
        CpuFacts(mode=CpuMode.HOST_MODEL),
        CpuFacts(mode=CpuMode.CUSTOM, model="EPYC", features=(CpuFeature(name="svm", policy="maybe"),)),
    ],
)
def test_what_cannot_be_compared(cpu: CpuFacts) -> None:
    """A host's own CPU, none, and a policy that libvirt does not know."""
    with pytest.raises(ValueError, match=r"compare|policy"):
        cpu_xml(cpu)


HOST = """<domainCapabilities><cpu><mode name='host-passthrough' supported='yes'/>
<mode name='host-model' supported='%s'><model fallback='forbid'>%s</model><vendor>AMD</vendor>
<feature policy='require' name='aes'/><feature policy='disable' name='svm'/></mode></cpu></domainCapabilities>"""


def test_the_hosts_own_cpu_is_one_to_compare_with() -> None:
    """As a guest would get it."""
    assert host_cpu_xml(HOST % ("yes", "EPYC")) == (
        '<cpu mode="custom" match="exact"><model fallback="forbid">EPYC</model><vendor>AMD</vendor>'
        '<feature policy="require" name="aes"/><feature policy="disable" name="svm"/></cpu>'
    )


@pytest.mark.parametrize("capabilities", [HOST % ("no", "EPYC"), HOST % ("yes", ""), "<domainCapabilities/>"])
def test_a_host_may_have_no_cpu_to_compare_with(capabilities: str) -> None:
    """libvirt does not know every CPU."""
    assert host_cpu_xml(capabilities) is None


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"aes": "require", "hle": "disable", "pcid": "force", "rtm": "forbid"}, "N with aes, pcid, without hle, rtm"),
        ({"aes": "require"}, "N with aes"),
        ({"hle": "disable"}, "N without hle"),
        ({}, "N"),
    ],
)
def test_a_cpu_is_told_in_words(features: dict[str, str], words: str) -> None:
    """The model, what it has beyond that, and what it has not."""
    named = "".join(f"<feature policy='{policy}' name='{name}'/>" for name, policy in features.items())
    cpu = read_cpu(f"<cpu mode='custom' match='exact'><model>N</model>{named}</cpu>")
    assert {each.name: each.policy for each in cpu.features} == features
    assert in_words(cpu) == words
