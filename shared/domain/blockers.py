"""What a path alone cannot tell: judgements that look at several parts of a device, each with its true reason. Pure.

The table says what happens to an element, an attribute or a value whatever stands beside it. What is refused here is
refused as a whole, with one reason; what else is in it is not listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

from lxml import etree

Reason = tuple[str, str]
"""A code, and the sentence."""
MAX_VLAN_ID = 4095
MAX_VLAN_TAGS = 256
"""Of one network card."""
_MAX_DIGITS = 18


class BlockerCode(StrEnum):
    """Why a VM cannot be ported live."""

    CPU_FEATURE = "cpu_feature"
    DEVICE_PASSTHROUGH = "device_passthrough"
    SHARED_FILESYSTEM = "shared_filesystem"
    SHARED_MEMORY = "shared_memory"
    READ_ONLY_DISK = "read_only_disk"
    DISK_KIND = "disk_kind"
    DISK_ENCRYPTION = "disk_encryption"
    NETWORK_KIND = "network_kind"
    VIRTUAL_TPM = "virtual_tpm"
    CONFIDENTIAL_GUEST = "confidential_guest"
    HOST_CHARACTER_DEVICE = "host_character_device"
    HOST_MEMORY = "host_memory"
    RAW_QEMU_OPTIONS = "raw_qemu_options"
    HOST_FIRMWARE = "host_firmware"
    NOT_PORTABLE = "not_portable"


_QEMU_NAMESPACE = "{http://libvirt.org/schemas/domain/qemu/"
_CODES: tuple[tuple[str, BlockerCode], ...] = (
    (_QEMU_NAMESPACE, BlockerCode.RAW_QEMU_OPTIONS),
    ("devices/hostdev", BlockerCode.DEVICE_PASSTHROUGH),
    ("devices/disk@device", BlockerCode.DEVICE_PASSTHROUGH),
    ("devices/disk/encryption", BlockerCode.DISK_ENCRYPTION),
    ("devices/disk/source/encryption", BlockerCode.DISK_ENCRYPTION),
    ("devices/disk", BlockerCode.DISK_KIND),
    ("devices/filesystem", BlockerCode.SHARED_FILESYSTEM),
    ("devices/shmem", BlockerCode.SHARED_MEMORY),
    ("devices/interface", BlockerCode.NETWORK_KIND),
    ("devices/tpm", BlockerCode.VIRTUAL_TPM),
    ("devices/memory", BlockerCode.HOST_MEMORY),
    ("devices/input", BlockerCode.DEVICE_PASSTHROUGH),
    ("devices/serial", BlockerCode.HOST_CHARACTER_DEVICE),
    ("devices/console", BlockerCode.HOST_CHARACTER_DEVICE),
    ("devices/parallel", BlockerCode.HOST_CHARACTER_DEVICE),
    ("devices/channel", BlockerCode.HOST_CHARACTER_DEVICE),
    ("features/hyperv", BlockerCode.CPU_FEATURE),
    ("launchSecurity", BlockerCode.CONFIDENTIAL_GUEST),
    ("os/loader", BlockerCode.HOST_FIRMWARE),
    ("os/nvram", BlockerCode.HOST_FIRMWARE),
)


def code_for(path: str) -> BlockerCode:
    """The code of what the table refuses at this path."""
    return next((code for start, code in _CODES if path.startswith(start)), BlockerCode.NOT_PORTABLE)


def whole_part_blockers(element: etree._Element, path: str) -> Iterator[Reason]:
    """Why this element, with all that is in it, cannot go with the VM; nothing where it can."""
    rule = _RULES.get(path)
    if rule is not None:
        yield from rule(element)


def change_of(element: etree._Element, path: str) -> str:
    """What the recipient makes of a device that none of its parts says by itself; empty where it makes nothing else."""
    is_nvdimm = path == "devices/memory" and element.get("model") == "nvdimm" and bool(element.findtext("source/path"))
    if is_nvdimm and element.get("access") != "shared":
        return "access: it becomes shared, so that what the guest writes gets into the recipient's file"
    return ""


def tsc_frequency(root: etree._Element) -> str:
    """The frequency in Hz that a ``<domain>`` gives its time stamp counter; empty where it gives none."""
    for timer in root.findall("clock/timer"):
        if timer.get("name") == "tsc" and (timer.get("frequency") or "").strip("0"):
            return timer.get("frequency") or ""
    return ""


def has_medium(disk: etree._Element) -> bool:
    """Whether a ``<disk>`` has contents: a source that names something, not only a policy."""
    source = disk.find("source")
    if source is None:
        return False
    return any(source.get(name) for name in ("file", "dev", "dir", "name", "pool", "protocol", "type", "path"))


def is_empty_drive(disk: etree._Element) -> bool:
    """Whether a ``<disk>`` is a drive without a medium."""
    return disk.get("device", "disk") in {"cdrom", "floppy"} and not has_medium(disk)


def _cpu_feature(element: etree._Element) -> Iterator[Reason]:
    if element.get("name") != "invtsc" or element.get("policy", "require") not in {"require", "force"}:
        return
    if not tsc_frequency(element.getroottree().getroot()):
        yield (
            BlockerCode.CPU_FEATURE,
            "its invariant time stamp counter (invtsc) has no frequency in the definition, so QEMU does not migrate it",
        )


def vlan_tag(tag: etree._Element) -> tuple[int, str] | None:
    """The id of a ``<tag>`` and its native mode, "" if it has none; None where one of both is not valid."""
    written, mode = tag.get("id", ""), tag.get("nativeMode", "")
    is_number = written.isascii() and written.isdigit() and len(written) <= _MAX_DIGITS
    if not is_number or int(written) > MAX_VLAN_ID or mode not in {"", "tagged", "untagged"}:
        return None
    return int(written), mode


def _vlan(nic: etree._Element) -> Iterator[Reason]:
    tags = nic.findall("vlan/tag")
    wrong = next((tag for tag in tags if vlan_tag(tag) is None), None)
    if wrong is not None:
        shown = " ".join(
            f"{name}={wrong.get(name, '')[:40]!r}" for name in ("id", "nativeMode") if name in wrong.attrib
        )
        yield BlockerCode.NETWORK_KIND, f"its VLAN tag ({shown or 'no id'}) is none: an id is from 0 to {MAX_VLAN_ID}"
    elif len(tags) > MAX_VLAN_TAGS:
        yield BlockerCode.NETWORK_KIND, f"it has {len(tags)} VLAN tags; at most {MAX_VLAN_TAGS} are carried"


def _interface(nic: etree._Element) -> Iterator[Reason]:
    teaming = nic.find("teaming")
    if teaming is not None and teaming.get("type") == "transient":
        yield BlockerCode.NETWORK_KIND, "a network card of the host is passed through, as the faster one of a team"

    if nic.get("type") == "vhostuser" and not is_passt(nic):
        yield BlockerCode.NETWORK_KIND, "the card is served by a program of the host"
    yield from _vlan(nic)


def is_passt(nic: etree._Element) -> bool:
    """Whether libvirt itself starts the program that serves the card: QEMU's own network by another name."""
    backend = nic.find("backend")
    return nic.get("type") in {"user", "vhostuser"} and backend is not None and backend.get("type") == "passt"


def _tpm(tpm: etree._Element) -> Iterator[Reason]:
    if tpm.find("backend[@type='emulator']/source") is not None:
        yield BlockerCode.VIRTUAL_TPM, "the state of the TPM lies in a place of its own at the host"


def encryption_of(disk: etree._Element) -> etree._Element | None:
    """The ``<encryption>`` of a ``<disk>``; libvirt takes it in its source and beside it."""
    found = disk.find("source/encryption")
    return found if found is not None else disk.find("encryption")


def _disk(disk: etree._Element) -> Iterator[Reason]:
    encryption, driver = encryption_of(disk), disk.find("driver")
    if encryption is None:
        return
    # The portable form names no format of an image; its host has looked at it.
    image_format = "qcow2" if driver is None else driver.get("type", "qcow2")
    if image_format != "qcow2":
        yield BlockerCode.DISK_ENCRYPTION, "it is encrypted as a whole file; LUKS is carried inside QCOW2"
    elif disk.find("readonly") is not None or disk.get("device", "disk") != "disk":
        yield BlockerCode.DISK_ENCRYPTION, "it is encrypted, and the guest only reads it or may eject it"
    elif len(encryption.findall("secret")) > 1:
        yield BlockerCode.DISK_ENCRYPTION, "it is encrypted with several secrets"


def _loader(loader: etree._Element) -> Iterator[Reason]:
    # QEMU takes a flash for one that the guest writes into, unless it is said to be read-only.
    if loader.get("type") == "pflash" and loader.get("readonly") is None and loader.get("stateless") != "yes":
        yield BlockerCode.HOST_FIRMWARE, "the guest writes into the firmware's own file"


_RULES: Mapping[str, Callable[[etree._Element], Iterator[Reason]]] = {
    "cpu/feature": _cpu_feature,
    "devices/disk": _disk,
    "devices/interface": _interface,
    "devices/tpm": _tpm,
    "os/loader": _loader,
}
