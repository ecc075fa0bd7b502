"""A guest that has its host's own CPU moves between equal hosts only; any other is compared by the node."""

from __future__ import annotations

import pytest

from services.recipient_agent.cpu_check import cpu_refusals, is_compared
from services.recipient_agent.testing import VERSIONS, make_node, make_platform, make_vm
from shared.messages.vm import CpuFacts, CpuMode, HypervisorVersions, Need

EQUAL = VERSIONS.model_copy(update={"host_cpu": "a" * 64, "kernel": "6.1.0"})


def found(mode: CpuMode, donor: HypervisorVersions, here: HypervisorVersions, domain_type: str = "kvm") -> list[str]:
    """The evidence against a VM of this mode."""
    node = make_node(platform=make_platform(versions=here))
    vm = make_vm(cpu=CpuFacts(mode=mode), domain_type=domain_type)
    return [refusal.evidence for refusal in cpu_refusals(vm, donor, node, None)]


@pytest.mark.parametrize("mode", [CpuMode.HOST_PASSTHROUGH, CpuMode.MAXIMUM, CpuMode.HOST_MODEL])
def test_equal_hosts_take_it(mode: CpuMode) -> None:
    """One CPU, one QEMU, one kernel."""
    assert found(mode, EQUAL, EQUAL) == []


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        ({"host_cpu": "b" * 64}, "CPUs differ"),
        ({"host_cpu": ""}, "not known"),
        ({"qemu": (10, 1, 0)}, "QEMU is 10.0.2 there and 10.1.0 here"),
        ({"kernel": "6.12.0"}, "the kernel is 6.1.0 there and 6.12.0 here"),
    ],
)
def test_unequal_hosts_do_not(change: dict[str, object], evidence: str) -> None:
    """Each difference is named."""
    (sentence,) = found(CpuMode.HOST_PASSTHROUGH, EQUAL, EQUAL.model_copy(update=change))
    assert evidence in sentence


def test_hosts_that_are_not_known_are_not_equal() -> None:
    """Two unknown CPUs are not one."""
    unknown = EQUAL.model_copy(update={"host_cpu": ""})
    assert found(CpuMode.MAXIMUM, unknown, unknown) != []


def test_emulation_does_not_ask_the_kernel() -> None:
    """QEMU makes the CPU itself there."""
    assert found(CpuMode.MAXIMUM, EQUAL, EQUAL.model_copy(update={"kernel": "6.12.0"}), "qemu") == []


def test_only_a_definition_of_its_own_is_compared() -> None:
    """QEMU's default CPU is the same everywhere."""
    modes = {mode: is_compared(make_vm(cpu=CpuFacts(mode=mode, model="qemu64"))) for mode in CpuMode}
    assert {mode for mode, compared in modes.items() if compared} == {CpuMode.CUSTOM, CpuMode.HOST_MODEL}
    assert found(CpuMode.DEFAULT, VERSIONS, VERSIONS) == []


def test_what_a_hosts_model_was_made_of_is_compared() -> None:
    """The guest has that, and not what the mode would mean here; so unequal hosts may take it, if libvirt says so."""
    vm = make_vm(cpu=CpuFacts(mode=CpuMode.HOST_MODEL, model="Skylake-Client", vendor="Intel"))
    node = make_node(platform=make_platform(versions=VERSIONS))

    assert [refusal.code for refusal in cpu_refusals(vm, EQUAL, node, None)] == ["cpu_not_compared"]
    assert list(cpu_refusals(vm, EQUAL, node, ())) == []


def test_a_counter_with_a_frequency_needs_an_equal_host() -> None:
    """Another host's libvirt refuses it in Prepare, where its counter has another frequency."""
    vm = make_vm(needs=(Need(kind="tsc_frequency", value="2500000000"),))
    (refusal,) = cpu_refusals(vm, EQUAL, make_node(platform=make_platform(versions=VERSIONS)), ())

    assert "time stamp counter" in refusal.rule
    assert list(cpu_refusals(vm, EQUAL, make_node(platform=make_platform(versions=EQUAL)), ())) == []
