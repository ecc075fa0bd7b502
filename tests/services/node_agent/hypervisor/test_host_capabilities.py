"""What capability XML and /proc say of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.hypervisor.host_capabilities import (
    available_memory_bytes,
    existing_bridges,
    firmwares,
    guest_kinds,
    usable_cpu_models,
    version_triple,
)
from shared.messages.vm import Firmware

CAPABILITIES = """<capabilities><guest><arch name='i686'/></guest><guest><arch name='x86_64'>
<machine>pc-q35-9.2</machine><machine canonical='pc-q35-10.0'>q35</machine><machine>pc-q35-10.0</machine>
<domain type='qemu'/><domain type='kvm'><machine>pc-q35-10.1</machine></domain></arch></guest></capabilities>"""
DOMAIN = """<domainCapabilities><os><enum name='firmware'>%s</enum></os><cpu>
<mode name='host-model' supported='yes'><model>EPYC</model></mode><mode name='custom'>
<model usable='no'>Skylake</model><model usable='yes'>qemu64</model><model usable='yes'>Nehalem</model></mode>
</cpu></domainCapabilities>"""


def test_accelerators_and_versioned_machines_are_found() -> None:
    """The faster accelerator first, the newest machine first, no aliases."""
    kinds = guest_kinds(CAPABILITIES, "x86_64")
    assert kinds.accelerators == ("kvm", "qemu")
    assert kinds.machines == ("pc-q35-10.1", "pc-q35-10.0", "pc-q35-9.2")


def test_an_architecture_that_is_not_there_has_nothing() -> None:
    """Empty, not an error."""
    assert guest_kinds(CAPABILITIES, "riscv64").machines == ()


def test_usable_cpu_models_start_with_the_hosts_own() -> None:
    """Models that libvirt calls unusable are left out."""
    assert usable_cpu_models(DOMAIN % "") == ("EPYC", "Nehalem", "qemu64")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("", (Firmware.BIOS, Firmware.DIRECT_KERNEL)),
        ("<value>efi</value>", (Firmware.BIOS, Firmware.DIRECT_KERNEL, Firmware.UEFI)),
    ],
)
def test_firmwares(values: str, expected: tuple[Firmware, ...]) -> None:
    """UEFI only where libvirt has one."""
    assert firmwares(DOMAIN % values) == expected


def test_numbers() -> None:
    """MemAvailable in bytes; libvirt's version number as three."""
    assert available_memory_bytes("MemFree: 1 kB\nMemAvailable:   2048 kB\n") == 2048 * 1024
    assert available_memory_bytes("") == 0
    assert version_triple(11_003_000) == (11, 3, 0)


def test_only_bridges_count(tmp_path: Path) -> None:
    """A card of that name is not enough."""
    (tmp_path / "vmbr0" / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    assert existing_bridges(("vmbr0", "eth0", "vmbr9"), tmp_path) == ("vmbr0",)
