"""What cannot be moved live is named, with the reason that is true."""

from __future__ import annotations

import pytest

from shared.domain import BlockerCode, build_for_host, describe, read_definition
from tests.support.domain_samples import DOMAIN, PLACES, with_device

SECOND_DISK = "<disk type='%s' device='%s'><source %s/><target dev='vdb' bus='virtio'/>%s</disk>"
CASES = [
    ("<hostdev mode='subsystem' type='pci'/>", BlockerCode.DEVICE_PASSTHROUGH, "device of the host"),
    ("<filesystem type='mount'><driver type='virtiofs'/></filesystem>", BlockerCode.SHARED_FILESYSTEM, "folder"),
    ("<shmem name='x'><model type='ivshmem-plain'/></shmem>", BlockerCode.SHARED_MEMORY, "memory is shared"),
    ("<tpm model='tpm-crb'><backend type='passthrough'/></tpm>", BlockerCode.VIRTUAL_TPM, "TPM of the host"),
    (
        "<tpm model='tpm-crb'><backend type='emulator'><encryption secret='x'/></backend></tpm>",
        BlockerCode.VIRTUAL_TPM,
        "encrypted with a secret",
    ),
    ("<interface type='direct'><mac address='52:54:00:00:00:02'/></interface>", BlockerCode.NETWORK_KIND, "macvtap"),
    (
        "<interface type='bridge'><mac address='52:54:00:00:00:02'/><teaming type='transient'/></interface>",
        BlockerCode.NETWORK_KIND,
        "team",
    ),
    (
        "<serial type='dev'><source path='/dev/ttyS0'/></serial>",
        BlockerCode.HOST_CHARACTER_DEVICE,
        "device of the host",
    ),
    (
        "<serial type='tcp'><source mode='bind' host='::' service='1'/></serial>",
        BlockerCode.HOST_CHARACTER_DEVICE,
        "socket",
    ),
    ("<memory model='nvdimm'><source><path>/x</path></source></memory>", BlockerCode.HOST_MEMORY, "file of the host"),
    (SECOND_DISK % ("file", "disk", "file='/s'", "<shareable/>"), BlockerCode.DISK_KIND, "shared with other VMs"),
    (SECOND_DISK % ("file", "disk", "file='/s'", "<transient/>"), BlockerCode.DISK_KIND, "would be lost"),
    (SECOND_DISK % ("file", "lun", "file='/s'", ""), BlockerCode.DEVICE_PASSTHROUGH, "SCSI device of the host"),
    (
        SECOND_DISK % ("network", "disk", "protocol='rbd' name='p/x'", ""),
        BlockerCode.DISK_KIND,
        "server in the network",
    ),
    (SECOND_DISK % ("block", "disk", "dev='/dev/vg/x'", ""), BlockerCode.DISK_KIND, "block device"),
    (SECOND_DISK % ("volume", "disk", "pool='p' volume='v'", ""), BlockerCode.DISK_KIND, "storage pool"),
    (SECOND_DISK % ("block", "cdrom", "dev='/dev/sr0'", "<readonly/>"), BlockerCode.DISK_KIND, "block device"),
    (
        SECOND_DISK % ("network", "cdrom", "protocol='https' name='x.iso'", "<readonly/>"),
        BlockerCode.DISK_KIND,
        "server in the network",
    ),
    (
        "<disk device='disk'><source file='/s'><encryption format='luks'/></source><target dev='vdb'/></disk>",
        BlockerCode.DISK_KIND,
        "encrypted",
    ),
    ("<input type='evdev'><source dev='/dev/input/event1'/></input>", BlockerCode.DEVICE_PASSTHROUGH, "input device"),
]


@pytest.mark.parametrize(("device", "code", "reason"), CASES)
def test_a_device_that_cannot_move_has_one_true_reason(device: str, code: BlockerCode, reason: str) -> None:
    """Each kind of host-bound device is named once, with its code and in plain words."""
    (finding,) = describe(with_device(device)).blockers

    assert finding.code == code
    assert reason in finding.detail


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("mode='custom'", "mode='host-passthrough' migratable='off'", BlockerCode.CPU_FEATURE),
        ("name='hypervisor'", "name='invtsc'", BlockerCode.CPU_FEATURE),
        ("<acpi/>", "<acpi/><hyperv mode='passthrough'/>", BlockerCode.CPU_FEATURE),
        (
            "<features>",
            "<launchSecurity type='sev'/><features>",
            BlockerCode.CONFIDENTIAL_GUEST,
        ),
        ("<kernel>", "<loader type='rom'>/usr/share/seabios/bios.bin</loader><kernel>", BlockerCode.HOST_FIRMWARE),
        ("<kernel>", "<loader>/usr/share/seabios/bios.bin</loader><kernel>", BlockerCode.HOST_FIRMWARE),
        ("<kernel>", "<acpi><table type='slic'>/x</table></acpi><kernel>", BlockerCode.NOT_PORTABLE),
        ("<kernel>", "<smbios mode='host'/><kernel>", BlockerCode.NOT_PORTABLE),
        ("<os>", "<sysinfo type='fwcfg'><entry name='opt/x' file='/x'/></sysinfo><os>", BlockerCode.NOT_PORTABLE),
    ],
)
def test_a_setting_that_cannot_move_is_named(old: str, new: str, code: BlockerCode) -> None:
    """CPU features that QEMU does not migrate, sealed memory, and firmware from the host's own files."""
    (finding,) = describe(DOMAIN.replace(old, new, 1)).blockers

    assert finding.code == code


def test_raw_qemu_options_are_refused() -> None:
    """Nobody can say what they do."""
    raw = DOMAIN.replace("<domain ", "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0' ").replace(
        "<features>", "<q:commandline><q:arg value='-S'/></q:commandline><features>"
    )

    assert [finding.code for finding in describe(raw).blockers] == [BlockerCode.RAW_QEMU_OPTIONS]


@pytest.mark.parametrize(
    "device",
    [
        "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>",
        "<disk type='file' device='cdrom'><source startupPolicy='optional'/><target dev='sda' bus='sata'/></disk>",
        "<disk type='block' device='floppy'><target dev='fda' bus='fdc'/></disk>",
    ],
)
def test_an_empty_drive_is_no_medium(device: str) -> None:
    """Only an inserted medium stays behind; a drive without one is carried as it is."""
    xml = with_device(device)

    assert describe(xml).blockers == ()
    assert [drive.empty for drive in describe(xml).drives] == [False, True]
    assert build_for_host(xml, PLACES).root.findall("devices/disk")[1].find("source") is None


def test_what_is_refused_as_a_whole_is_not_listed_in_its_parts() -> None:
    """One device, one reason, also where it has unknown parts."""
    findings = read_definition(with_device("<hostdev mode='subsystem'><strange what='1'/></hostdev>")).blockers

    assert len(findings) == 1
