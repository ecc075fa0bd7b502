"""What capability XML and /proc say of a host."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.node_agent.hypervisor.host_capabilities import (
    available_memory_bytes,
    card_driver,
    existing_bridges,
    existing_switches,
    firmwares,
    guest_kinds,
    host_cpu_digest,
    huge_pages,
    parse_capabilities,
    usable_cpu_models,
    version_triple,
)
from shared.messages.vm import Firmware

CAPABILITIES = """<capabilities><guest><arch name='i686'/></guest><guest><arch name='x86_64'>
<machine deprecated='yes'>pc-q35-9.2</machine>
<machine canonical='pc-q35-10.0'>q35</machine><machine>pc-q35-10.0</machine>
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
    assert kinds.aliases == {"q35": "pc-q35-10.0"}
    assert kinds.deprecated == ("pc-q35-9.2",)


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


HOST = """<capabilities><host><uuid>%s</uuid><cpu><arch>x86_64</arch><model>%s</model>
<counter name='tsc' frequency='%s' scaling='%s'/><topology sockets='1' cores='%s'/><feature name='vmx'/></cpu></host>
</capabilities>"""


def test_hosts_with_one_cpu_have_one_digest() -> None:
    """Where a host has how many cores, and who it is, makes no difference; its model and features do."""
    here = host_cpu_digest(HOST % (1, "EPYC", 1000, "no", 2), [DOMAIN % ""])

    assert len(here) == 64
    assert host_cpu_digest(HOST % (2, "EPYC", 1000, "no", 64), [DOMAIN % ""]) == here
    assert host_cpu_digest(HOST % (1, "Opteron", 1000, "no", 2), [DOMAIN % ""]) != here
    assert host_cpu_digest(HOST % (1, "EPYC", 1000, "no", 2), [DOMAIN.replace("EPYC", "EPYC-Rome") % ""]) != here
    assert host_cpu_digest(HOST.replace("vmx", "svm") % (1, "EPYC", 1000, "no", 2), [DOMAIN % ""]) != here


def test_a_clock_that_can_be_scaled_may_have_another_frequency() -> None:
    """The guest sees its own frequency then; where it cannot be scaled, it sees the host's."""
    fixed, scaled = ([HOST % (1, "EPYC", mhz, can, 2) for mhz in (1000, 2000)] for can in ("no", "yes"))

    assert len({host_cpu_digest(each, []) for each in fixed}) == 2
    assert len({host_cpu_digest(each, []) for each in scaled}) == 1


def test_an_unknown_host_has_no_digest() -> None:
    """Nothing known is not the same as something equal."""
    assert host_cpu_digest("<capabilities/>", []) == ""


def test_huge_pages_of_each_size(tmp_path: Path) -> None:
    """Sizes of which there are none are not told; a kernel without them has none."""
    for size_kib, total, free in ((2048, 8, 5), (1048576, 0, 0)):
        folder = tmp_path / f"hugepages-{size_kib}kB"
        folder.mkdir()
        (folder / "nr_hugepages").write_text(f"{total}\n")
        (folder / "free_hugepages").write_text(f"{free}\n")

    (pages,) = huge_pages(tmp_path)

    assert (pages.size_bytes, pages.total, pages.free) == (2 << 20, 8, 5)
    assert huge_pages(tmp_path / "none") == ()


def test_an_answer_that_is_too_large_is_not_read() -> None:
    """libvirt's answers are some 100 KB."""
    with pytest.raises(ValueError, match="at most"):
        parse_capabilities("<a>" + " " * (9 << 20) + "</a>")


def test_bridges_of_open_vswitch_are_told_apart() -> None:
    """Only they take VLAN tags of a guest's port."""
    drivers = {"br-int": "openvswitch", "vmbr0": "bridge"}
    assert existing_switches(("br-int", "vmbr0", "gone"), drivers.get) == ("br-int",)


def test_a_switch_that_moves_frames_itself_is_told_by_its_socket(tmp_path: Path) -> None:
    """Its card is a tap device, and so are those of guests; a socket that outlived its bridge is none."""
    drivers = {"br-dpdk": "tun", "vnet0": "tun", "vmbr0": "bridge"}
    with ExitStack() as stack:
        for name in ("br-dpdk", "vmbr0", "gone"):
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(tmp_path / f"{name}.mgmt"))
        (tmp_path / "vnet0.mgmt").touch()
        assert existing_switches((*drivers, "gone"), drivers.get, tmp_path) == ("br-dpdk",)


def test_the_kernel_tells_a_cards_driver() -> None:
    """A card that is not there, and one that has no driver, are none of anybody's."""
    assert card_driver("no-such-card") is None
    assert card_driver("lo") != "openvswitch"
