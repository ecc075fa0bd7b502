"""libvirt's numbers as ours: units are converted, and what is missing counts as 0."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

libvirt = pytest.importorskip("libvirt")

from services.node_agent.hypervisor.libvirt_mapping import (  # noqa: E402  # needs the binding
    STATES,
    allocated_or_zero,
    job_stats,
    mib_per_s,
    size_or_zero,
    summary,
)
from shared.domain import describe  # noqa: E402
from shared.messages.vm import VmState  # noqa: E402


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


def test_a_missing_image_hides_no_vm(tmp_path: Path) -> None:
    """Its size counts as 0 in the inventory."""
    image = tmp_path / "disk.raw"
    xml = f"""<domain type='qemu'><name>small</name><uuid>{UUID(int=5)}</uuid><memory unit='KiB'>65536</memory>
<vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os><devices><disk type='file' device='disk'>
<driver name='qemu' type='raw'/><source file='{image}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""
    assert summary(describe(xml), VmState.SHUT_OFF).disk_bytes == 0
    image.write_bytes(bytes(12_288))
    found = summary(describe(xml), VmState.SHUT_OFF)
    assert (found.uuid, found.vcpus, found.memory_bytes, found.disk_bytes) == (UUID(int=5), 2, 64 << 20, 12_288)
    assert size_or_zero(str(tmp_path / "none.qcow2"), "qcow2") == 0
    assert (allocated_or_zero(None), allocated_or_zero(str(tmp_path / "none"))) == (0, 0)


def test_a_vm_that_is_going_down_is_no_proof_that_it_ran() -> None:
    """A libvirtd that restarts ends a copy which was only receiving, and shows it going down before it is gone."""
    assert STATES[libvirt.VIR_DOMAIN_SHUTDOWN] is VmState.OTHER
