"""libvirt's numbers as ours: units are converted, and what is missing counts as 0."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

libvirt = pytest.importorskip("libvirt")

from services.node_agent.hypervisor.interface import HypervisorError  # noqa: E402  # needs the binding
from services.node_agent.hypervisor.libvirt_mapping import (  # noqa: E402  # needs the binding
    STATES,
    allocated_or_zero,
    files_in_use,
    job_stats,
    live_vm,
    memory_file_blockers,
    mib_per_s,
    with_expanded_cpu,
)
from shared.domain import describe  # noqa: E402
from shared.messages.vm import CpuMode, VmState  # noqa: E402
from tests.support.domain_samples import DOMAIN, MAC, with_device  # noqa: E402


@pytest.mark.parametrize(("bytes_per_s", "found"), [(1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (10 << 20, 10)])
def test_rates_are_rounded_up(bytes_per_s: int, found: int) -> None:
    """0 MiB/s would mean no limit to libvirt."""
    assert mib_per_s(bytes_per_s) == found


def test_the_dirty_rate_is_in_bytes() -> None:
    """libvirt counts pages of the size that it names."""
    stats = job_stats(
        {
            libvirt.VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE: 3,
            libvirt.VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE: 4096,
            libvirt.VIR_DOMAIN_JOB_MEMORY_REMAINING: 77,
            libvirt.VIR_DOMAIN_JOB_DOWNTIME: 12,
        }
    )
    assert (stats.dirty_rate_bytes_per_s, stats.memory_remaining_bytes, stats.downtime_ms) == (3 * 4096, 77, 12)
    empty = job_stats({})
    assert (empty.dirty_rate_bytes_per_s, empty.memory_iteration, empty.downtime_ms) == (0, 0, None)


def test_a_layer_that_cannot_be_read_counts_as_nothing(tmp_path: Path) -> None:
    """QEMU has it open, and the VM runs."""
    assert (allocated_or_zero(None), allocated_or_zero(str(tmp_path / "none"))) == (0, 0)


class Connection:
    """A host with these VMs."""

    def __init__(self, *domains: Domain) -> None:
        self.domains = domains

    def listAllDomains(self) -> tuple[Domain, ...]:  # noqa: N802  # libvirt's name
        """All of them."""
        return self.domains


class Domain:
    """A VM that is off; with `busy_ms` a command has been waiting for its QEMU for so long."""

    def __init__(self, number: int, xml: str, busy_ms: int = 0) -> None:
        self.number, self.xml, self.busy_ms = number, xml, busy_ms

    def controlInfo(self, flags: int = 0) -> tuple[int, int, int]:  # noqa: ARG002, N802  # libvirt's name
        """As libvirtd tells it."""
        control = libvirt.VIR_DOMAIN_CONTROL_OCCUPIED if self.busy_ms else libvirt.VIR_DOMAIN_CONTROL_OK
        return control, 0, self.busy_ms

    def UUIDString(self) -> str:  # noqa: N802  # libvirt's name
        """Its UUID."""
        return str(UUID(int=self.number))

    def name(self) -> str:
        """Its name."""
        return f"vm-{self.number}"

    def isActive(self) -> int:  # noqa: N802  # libvirt's name
        """Never."""
        return 0

    def XMLDesc(self, flags: int) -> str:  # noqa: ARG002, N802  # libvirt's name
        """Its definition."""
        return self.xml


def test_a_vm_that_hangs_is_named_at_once() -> None:
    """Which files it has cannot be known, so none is put away; libvirt would keep each who asks for half a minute."""
    hung = Connection(Domain(1, "<domain/>"), Domain(2, "<domain/>", busy_ms=60_000))
    with pytest.raises(HypervisorError, match="read VM vm-2: its QEMU does not answer"):
        files_in_use(hung, None)  # type: ignore[arg-type]  # as much of it as is used
    assert files_in_use(hung, UUID(int=2)) == {}  # type: ignore[arg-type]  # as much of it as is used


def test_a_definition_that_cannot_be_read_keeps_its_files(tmp_path: Path) -> None:
    """And no other VM's disconnect waits for it for ever: every path in its text counts as in use."""
    disk = tmp_path / "a & b.raw"
    xml = f"<domain><devices><disk><source file='{tmp_path}/a &amp; b.raw'/></disk></devices><broken</domain>"
    connection = Connection(Domain(1, xml), Domain(2, "<domain>not well-formed"))
    assert files_in_use(connection, None)[str(disk)] == "vm-1"  # type: ignore[arg-type]  # as much of it as is used
    assert files_in_use(connection, UUID(int=1)) == {}  # type: ignore[arg-type]  # as much of it as is used


def test_a_vm_that_is_going_down_is_no_proof_that_it_ran() -> None:
    """A libvirtd that restarts ends a copy which was only receiving, and shows it going down before it is gone."""
    assert STATES[libvirt.VIR_DOMAIN_SHUTDOWN] is VmState.OTHER


def test_a_hosts_model_is_told_as_what_it_was_made_of() -> None:
    """A migratable XML says only host-model; the live one has the CPU that the guest runs with."""
    live = describe(DOMAIN)
    migratable = describe(DOMAIN.replace("mode='custom' match='exact'", "mode='host-model'"))

    told = with_expanded_cpu(migratable, live).cpu

    assert (told.mode, told.model, told.features) == (CpuMode.HOST_MODEL, "qemu64", live.cpu.features)
    assert 'mode="custom"' in told.expanded
    assert with_expanded_cpu(live, live) is live


def test_memory_that_is_in_no_plain_file_is_a_blocker(tmp_path: Path) -> None:
    """A device of the host cannot be put away when the VM has left."""
    module = "<memory model='nvdimm'><source><path>%s</path></source><target><size>9</size></target></memory>"
    file = tmp_path / "m.img"
    file.touch()

    assert memory_file_blockers(describe(with_device(module % file))) == []
    (blocker,) = memory_file_blockers(describe(with_device(module % "/dev/null")))
    assert blocker.startswith("host_memory: memory 0: ")


class Running(Domain):
    """A VM that runs. As libvirt does, it leaves out of the migratable definition what it has named itself."""

    def isActive(self) -> bool:  # noqa: N802  # libvirt's name
        """It runs."""
        return True

    def isPersistent(self) -> bool:  # noqa: N802  # libvirt's name
        """Only for now."""
        return False

    def autostart(self) -> int:
        """It is not started with the host."""
        return 0

    def state(self) -> tuple[int, int]:
        """Running, booted."""
        return libvirt.VIR_DOMAIN_RUNNING, 1

    def XMLDesc(self, flags: int) -> str:  # noqa: N802  # libvirt's name
        """Its definition."""
        return self.xml.replace("<target dev='vnet3'/>", "") if flags & libvirt.VIR_DOMAIN_XML_MIGRATABLE else self.xml


def test_a_running_vm_has_its_devices_here_beside_what_another_host_needs() -> None:
    """The migratable definition does not name them."""
    found = live_vm(cast("Any", Running(1, re.sub(r"(?s)<disk .*?</disk>", "", DOMAIN))))
    assert "vnet3" not in found.domain_xml
    assert found.taps == {MAC: "vnet3"}
