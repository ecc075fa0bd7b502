"""What forbids moving a VM live: parts that are bound to their host, and are not in QEMU's stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from lxml import etree

from shared.domain.parsing import mac_of, source_of, target_of


class BlockerCode(StrEnum):
    """Why a VM cannot be ported live."""

    CPU_PASSTHROUGH = "cpu_passthrough"
    DEVICE_PASSTHROUGH = "device_passthrough"
    SHARED_FILESYSTEM = "shared_filesystem"
    SHARED_MEMORY = "shared_memory"
    SHARED_DISK = "shared_disk"
    READ_ONLY_DISK = "read_only_disk"
    DISK_KIND = "disk_kind"
    REMOVABLE_MEDIA = "removable_media"
    NETWORK_KIND = "network_kind"
    VIRTUAL_TPM = "virtual_tpm"
    CONFIDENTIAL_GUEST = "confidential_guest"
    HOST_CHARACTER_DEVICE = "host_character_device"
    PERSISTENT_MEMORY = "persistent_memory"
    RAW_QEMU_OPTIONS = "raw_qemu_options"


@dataclass(frozen=True, slots=True)
class Blocker:
    """One part of the VM that does not survive a live port, and the sentence for its owner."""

    code: BlockerCode
    detail: str


_MOVING_CHARACTER_DEVICES = frozenset({"pty", "unix", "file", "null", "spicevmc", "spiceport", "stdio"})
_QEMU_NAMESPACE = "{http://libvirt.org/schemas/domain/qemu/"

_BLOCKING_ELEMENTS: tuple[tuple[str, BlockerCode, str], ...] = (
    ("devices/hostdev", BlockerCode.DEVICE_PASSTHROUGH, "a host device ({kind}) is passed through"),
    ("devices/redirdev", BlockerCode.DEVICE_PASSTHROUGH, "a USB device is redirected ({kind})"),
    ("devices/smartcard", BlockerCode.DEVICE_PASSTHROUGH, "a smart card reader ({kind}) is attached"),
    ("devices/vsock", BlockerCode.DEVICE_PASSTHROUGH, "a vsock device ({kind}) is bound to the host"),
    ("devices/filesystem", BlockerCode.SHARED_FILESYSTEM, "a host directory is shared ({kind})"),
    ("devices/shmem", BlockerCode.SHARED_MEMORY, "memory is shared with the host (ivshmem)"),
    ("devices/tpm", BlockerCode.VIRTUAL_TPM, "a TPM ({kind}) keeps state outside of QEMU's stream"),
    ("launchSecurity", BlockerCode.CONFIDENTIAL_GUEST, "memory is sealed to this host's CPU ({kind})"),
)


def blockers_of(root: etree._Element) -> Iterator[Blocker]:
    """Every part of the VM that cannot be moved live."""
    cpu = root.find("cpu")
    if cpu is not None and cpu.get("mode") in {"host-passthrough", "maximum"}:
        yield Blocker(BlockerCode.CPU_PASSTHROUGH, f"the CPU is this host's own ({cpu.get('mode')}); use a named model")
    for path, code, detail in _BLOCKING_ELEMENTS:
        for element in root.findall(path):
            yield Blocker(code, detail.format(kind=element.get("type") or element.get("model") or element.tag))
    for disk in root.findall("devices/disk"):
        yield from _disk_blockers(disk)
    yield from _device_blockers(root)
    for element in root:
        if isinstance(element.tag, str) and element.tag.startswith(_QEMU_NAMESPACE):
            yield Blocker(BlockerCode.RAW_QEMU_OPTIONS, "raw QEMU options cannot be checked")


def _device_blockers(root: etree._Element) -> Iterator[Blocker]:
    for nic in root.findall("devices/interface"):
        if nic.get("type") not in {"bridge", "network"}:
            yield Blocker(
                BlockerCode.NETWORK_KIND, f"network card {mac_of(nic)} is of type {nic.get('type')}; only bridges move"
            )
    for kind in ("serial", "console", "parallel", "channel"):
        for device in root.findall(f"devices/{kind}"):
            if device.get("type") not in _MOVING_CHARACTER_DEVICES:
                yield Blocker(
                    BlockerCode.HOST_CHARACTER_DEVICE, f"a {kind} device is bound to the host ({device.get('type')})"
                )
    for memory in root.findall("devices/memory"):
        if memory.get("model") != "dimm":
            yield Blocker(BlockerCode.PERSISTENT_MEMORY, f"a {memory.get('model')} memory device is backed by the host")


def _disk_blockers(disk: etree._Element) -> Iterator[Blocker]:
    name, device, kind = target_of(disk), disk.get("device", "disk"), disk.get("type", "file")
    if device in {"cdrom", "floppy"} and source_of(disk) is None:
        return
    if disk.find("shareable") is not None:
        yield Blocker(BlockerCode.SHARED_DISK, f"disk {name} is shared with other VMs")
    if device not in {"disk", "cdrom", "floppy"} or kind not in {"file", "block"}:
        yield Blocker(BlockerCode.DISK_KIND, f"disk {name} is a {kind} {device}; only files and block devices move")
    elif source_of(disk) is None:
        yield Blocker(BlockerCode.DISK_KIND, f"disk {name} has no source")
    if disk.find("transient") is not None:
        yield Blocker(BlockerCode.DISK_KIND, f"disk {name} is transient; its writes would be lost")
    if disk.find("source/encryption") is not None or disk.find("encryption") is not None:
        yield Blocker(BlockerCode.DISK_KIND, f"disk {name} is encrypted with a secret of this host")
