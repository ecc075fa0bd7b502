"""What cannot be moved live is named."""

from __future__ import annotations

import pytest

from shared.domain import BlockerCode, describe, rewrite_for_host
from tests.support.domain_samples import DOMAIN, PLACES, with_device


@pytest.mark.parametrize(
    ("device", "code"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", BlockerCode.DEVICE_PASSTHROUGH),
        ("<redirdev bus='usb' type='tcp'/>", BlockerCode.DEVICE_PASSTHROUGH),
        ("<filesystem type='mount'><driver type='virtiofs'/></filesystem>", BlockerCode.SHARED_FILESYSTEM),
        ("<shmem name='x'><model type='ivshmem-plain'/></shmem>", BlockerCode.SHARED_MEMORY),
        ("<tpm model='tpm-crb'><backend type='emulator'/></tpm>", BlockerCode.VIRTUAL_TPM),
        ("<interface type='direct'><mac address='52:54:00:00:00:02'/></interface>", BlockerCode.NETWORK_KIND),
        ("<serial type='dev'><source path='/dev/ttyS0'/></serial>", BlockerCode.HOST_CHARACTER_DEVICE),
        ("<memory model='nvdimm'/>", BlockerCode.PERSISTENT_MEMORY),
        (
            "<disk type='file' device='disk'><source file='/s'/><target dev='vdb'/><shareable/></disk>",
            BlockerCode.SHARED_DISK,
        ),
        (
            "<disk type='file' device='disk'><source file='/s'/><target dev='vdb'/><readonly/></disk>",
            BlockerCode.READ_ONLY_DISK,
        ),
        ("<disk type='network' device='disk'><source name='p/x'/><target dev='vdb'/></disk>", BlockerCode.DISK_KIND),
        (
            "<disk type='file' device='cdrom'><source file='/x.iso'/><target dev='sda'/></disk>",
            BlockerCode.REMOVABLE_MEDIA,
        ),
        (
            "<disk type='file' device='disk'><source file='/s'/><target dev='vdb'/><transient/></disk>",
            BlockerCode.DISK_KIND,
        ),
    ],
)
def test_what_cannot_move_is_a_blocker(device: str, code: BlockerCode) -> None:
    """Each kind of host-bound device is named with its code."""
    assert code in {blocker.code for blocker in describe(with_device(device)).blockers}


def test_an_empty_cdrom_is_no_blocker() -> None:
    """Only an inserted medium stays behind."""
    xml = with_device("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>")
    assert describe(xml).blockers == ()
    rewrite_for_host(xml, PLACES)


def test_other_blockers_are_not_devices() -> None:
    """Host CPU, sealed memory and raw QEMU options block, too."""
    passthrough = DOMAIN.replace("mode='custom'", "mode='host-passthrough'")
    sealed = DOMAIN.replace("<features>", "<launchSecurity type='sev'/><features>")
    raw = DOMAIN.replace("<domain ", "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0' ").replace(
        "<features>", "<q:commandline><q:arg value='-S'/></q:commandline><features>"
    )
    for xml, code in (
        (passthrough, BlockerCode.CPU_PASSTHROUGH),
        (sealed, BlockerCode.CONFIDENTIAL_GUEST),
        (raw, BlockerCode.RAW_QEMU_OPTIONS),
    ):
        assert [code] == [blocker.code for blocker in describe(xml).blockers]
