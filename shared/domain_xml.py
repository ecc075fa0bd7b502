"""libvirt domain XML as values: what a VM is, what forbids porting it, and the same VM written for another host.

Pure, and safe on foreign input: no entities, no DTD, no network, bounded size. Node agents read live XML with it and
hold the RPC gate to it; recipient agents rewrite with it. It judges no provider's policy and asks no libvirt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from lxml import etree

MAX_XML_BYTES = 1 << 20
MAX_DIFFERENCES = 20
"""Differences listed before the comparison stops: a report for people, not a patch."""

_UNIT_BYTES = {
    "b": 1,
    "bytes": 1,
    "kb": 1000,
    "k": 1024,
    "kib": 1024,
    "mb": 1000**2,
    "m": 1024**2,
    "mib": 1024**2,
    "gb": 1000**3,
    "g": 1024**3,
    "gib": 1024**3,
    "tb": 1000**4,
    "t": 1024**4,
    "tib": 1024**4,
}
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")


class DomainXmlError(ValueError):
    """A domain XML that cannot be read, or cannot be rewritten as asked."""

    def __init__(self, problem: str, *, element: str = "domain") -> None:
        super().__init__(problem, element)
        self.problem = problem
        self.element = element

    def __str__(self) -> str:
        """Say where, and what."""
        return f"domain XML, <{self.element}>: {self.problem}"


class BlockerCode(StrEnum):
    """Why a VM cannot be ported live."""

    CPU_PASSTHROUGH = "cpu_passthrough"
    DEVICE_PASSTHROUGH = "device_passthrough"
    SHARED_FILESYSTEM = "shared_filesystem"
    SHARED_MEMORY = "shared_memory"
    SHARED_DISK = "shared_disk"
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


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """An image beneath a disk's own. `path` is None where it is not all of one plain file of its host."""

    path: str | None
    format: str


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk with content. `source` is the path at its present host; size and allocation come from the hypervisor.

    `layers` are the images beneath, top down. A live XML names them to the end, a migratable one may not: then the last
    one has neither path nor format, since nobody knows what it is.
    """

    target: str
    bus: str
    format: str
    source: str
    read_only: bool = False
    layers: tuple[LayerFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class NicFacts:
    """A network card. `bridge` is the host's side, None where the XML names none."""

    mac: str
    model: str
    bridge: str | None


@dataclass(frozen=True, slots=True)
class VmFacts:
    """What a VM is, read from one domain XML. Sizes in bytes; tuples in the order of the XML."""

    uuid: str
    name: str
    virt_type: str
    arch: str
    machine: str
    memory_bytes: int
    vcpus: int
    cpu_mode: str
    cpu_model: str | None
    cpu_features: tuple[str, ...]
    firmware: str
    loader: str | None
    nvram: str | None
    kernel: str | None
    initrd: str | None
    disks: tuple[DiskFacts, ...] = ()
    nics: tuple[NicFacts, ...] = ()
    blockers: tuple[Blocker, ...] = ()


@dataclass(frozen=True, slots=True)
class HostPlaces:
    """Where the host-side parts of a VM live on the host that the XML is rewritten for.

    `disks` maps target device to path, `disk_formats` to image format where it changes; `bridges` maps MAC to bridge.
    None leaves the path as it is, except `console_log`, whose absence removes logs of character devices.
    """

    disks: Mapping[str, str] = field(default_factory=dict)
    disk_formats: Mapping[str, str] = field(default_factory=dict)
    bridges: Mapping[str, str] = field(default_factory=dict)
    emulator: str | None = None
    nvram: str | None = None
    loader: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    console_log: str | None = None


def parse(xml: str | bytes) -> etree._Element:
    """Return the <domain> element. Raises DomainXmlError for anything else, or more than MAX_XML_BYTES."""
    raw = xml.encode() if isinstance(xml, str) else xml
    if len(raw) > MAX_XML_BYTES:
        raise DomainXmlError(f"{len(raw)} bytes, more than {MAX_XML_BYTES}")
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise DomainXmlError("a document type declaration is not accepted")
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        remove_blank_text=True,
    )
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise DomainXmlError(f"not well-formed: {error}") from error
    if root.tag != "domain":
        raise DomainXmlError(f"the document is a <{root.tag}>")
    return root


def describe(xml: str | bytes) -> VmFacts:
    """Read a live or stored domain XML. Raises DomainXmlError where something that every VM has is missing."""
    root = parse(xml)
    os_type = root.find("os/type")
    if os_type is None:
        raise DomainXmlError("no <type>", element="os")
    cpu = root.find("cpu")
    return VmFacts(
        uuid=_required(root, "uuid").lower(),
        name=_required(root, "name"),
        virt_type=root.get("type", "kvm"),
        arch=os_type.get("arch", "x86_64"),
        machine=os_type.get("machine", ""),
        memory_bytes=_size_bytes(root, "memory"),
        vcpus=_int(_required(root, "vcpu"), "vcpu"),
        cpu_mode=cpu.get("mode", "custom") if cpu is not None else "default",
        cpu_model=_text(root, "cpu/model"),
        cpu_features=tuple(_cpu_feature(feature) for feature in root.findall("cpu/feature")),
        firmware=_firmware(root),
        loader=_text(root, "os/loader"),
        nvram=_text(root, "os/nvram"),
        kernel=_text(root, "os/kernel"),
        initrd=_text(root, "os/initrd"),
        disks=tuple(_disks(root)),
        nics=tuple(_nics(root)),
        blockers=tuple(_blockers(root)),
    )


def rewrite_for_host(xml: str | bytes, places: HostPlaces) -> str:
    """Return the same VM for another host: paths and bridges replaced, host leftovers dropped, guest ABI untouched.

    Raises DomainXmlError where a disk has no new path or a card no new bridge.
    """
    root = parse(xml)
    _drop(root, "id")
    # Pins, weights and partitions speak of the old host's CPUs and cgroups.
    _remove(root, "seclabel", "resource", "cputune", "numatune", "blkiotune", "devices/*/alias", "devices/audio")
    _set_text(root, "devices/emulator", places.emulator)
    _set_text(root, "os/loader", places.loader)
    _set_text(root, "os/nvram", places.nvram)
    _set_text(root, "os/kernel", places.kernel)
    _set_text(root, "os/initrd", places.initrd)
    for disk in root.findall("devices/disk"):
        _rewrite_disk(disk, places)
    for nic in root.findall("devices/interface"):
        _rewrite_nic(nic, places)
    for kind in ("serial", "console", "parallel", "channel"):
        for device in root.findall(f"devices/{kind}"):
            _rewrite_character_device(device, places)
    for graphics in root.findall("devices/graphics"):
        _rewrite_graphics(graphics)
    return _to_text(root)


def guest_abi_differences(a: str | bytes, b: str | bytes) -> list[str]:
    """Return what a guest would notice between two XMLs, as sentences; empty where it would notice nothing.

    Host-side parts do not count: disk sources and caching, bridge and tap names, character-device back ends, log and
    security labels, emulator and firmware paths, graphics, resource limits, aliases, metadata.
    """
    found: list[str] = []
    for difference in _compare(_guest_view(parse(a)), _guest_view(parse(b)), "domain"):
        found.append(difference)
        if len(found) == MAX_DIFFERENCES:
            break
    return found


def identity_snapshot(xml: str | bytes) -> dict[str, str]:
    """Return what makes this VM itself, flat and comparable: equal before and after a port, or the port went wrong."""
    facts = describe(xml)
    snapshot = {
        "uuid": facts.uuid,
        "name": facts.name,
        "arch": facts.arch,
        "machine": facts.machine,
        "memory_bytes": str(facts.memory_bytes),
        "vcpus": str(facts.vcpus),
        "cpu": " ".join([facts.cpu_mode, facts.cpu_model or "", *sorted(facts.cpu_features)]).strip(),
        "firmware": facts.firmware,
    }
    snapshot |= {f"disk.{disk.target}": f"{disk.bus} {disk.format}" for disk in facts.disks}
    snapshot |= {f"nic.{index}": f"{nic.mac} {nic.model}" for index, nic in enumerate(facts.nics)}
    return snapshot


# ---- reading ----------------------------------------------------------------------------------------------------


def _text(root: etree._Element, path: str) -> str | None:
    text = root.findtext(path)
    return text.strip() or None if text else None


def _required(root: etree._Element, path: str) -> str:
    text = _text(root, path)
    if text is None:
        raise DomainXmlError("missing or empty", element=path)
    return text


def _int(text: str, element: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise DomainXmlError(f"{text[:40]!r} is not a number", element=element)
    return int(text)


def _size_bytes(root: etree._Element, path: str) -> int:
    amount = _int(_required(root, path), path)
    unit = (root.find(path).get("unit") or "KiB").lower()  # type: ignore[union-attr]  # _required found it
    if unit not in _UNIT_BYTES:
        raise DomainXmlError(f"unknown unit {unit!r}", element=path)
    return amount * _UNIT_BYTES[unit]


def _cpu_feature(feature: etree._Element) -> str:
    sign = "-" if feature.get("policy") in {"disable", "forbid"} else "+"
    return f"{sign}{feature.get('name')}"


def _firmware(root: etree._Element) -> str:
    os, loader = root.find("os"), root.find("os/loader")
    chosen = os is not None and os.get("firmware") == "efi"
    return "uefi" if chosen or (loader is not None and loader.get("type") == "pflash") else "bios"


def _disk_source(disk: etree._Element) -> str | None:
    source = disk.find("source")
    if source is None:
        return None
    return source.get("file") or source.get("dev") or None


def _target(disk: etree._Element) -> str:
    target = disk.find("target")
    name = target.get("dev") if target is not None else None
    if not name:
        raise DomainXmlError("no target device", element="disk")
    return name


def _disks(root: etree._Element) -> Iterator[DiskFacts]:
    for disk in root.findall("devices/disk"):
        source = _disk_source(disk)
        if source is None:
            continue
        driver, target = disk.find("driver"), disk.find("target")
        image_format = (driver.get("type") if driver is not None else None) or "raw"
        yield DiskFacts(
            target=_target(disk),
            bus=(target.get("bus") if target is not None else None) or "virtio",
            format=image_format,
            source=source,
            read_only=disk.find("readonly") is not None,
            layers=tuple(_layers(disk, image_format)),
        )


def _layers(disk: etree._Element, image_format: str) -> Iterator[LayerFacts]:
    layer = disk.find("backingStore")
    while layer is not None and len(layer):  # an empty one says that nothing lies beneath
        source, named = layer.find("source"), layer.find("format")
        # What stands in a source makes it a slice, or an encrypted one: its contents are not the file's.
        plain = source is not None and all(part.tag == "seclabel" for part in source)
        image_format = (named.get("type") if named is not None else None) or ""
        yield LayerFacts(path=source.get("file") if plain and source is not None else None, format=image_format)
        layer = layer.find("backingStore")
    if layer is None and image_format != "raw":  # beneath a raw image there can be nothing
        yield LayerFacts(path=None, format="")


def _nics(root: etree._Element) -> Iterator[NicFacts]:
    for nic in root.findall("devices/interface"):
        source, model = nic.find("source"), nic.find("model")
        yield NicFacts(
            mac=_mac(nic),
            model=(model.get("type") if model is not None else None) or "rtl8139",
            bridge=source.get("bridge") if source is not None else None,
        )


def _mac(nic: etree._Element) -> str:
    element = nic.find("mac")
    address = (element.get("address") if element is not None else None) or ""
    if not _MAC.match(address.lower()):
        raise DomainXmlError(f"{address!r} is not a MAC address", element="interface")
    return address.lower()


# ---- blockers ---------------------------------------------------------------------------------------------------


def _blockers(root: etree._Element) -> Iterator[Blocker]:
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
        if isinstance(element.tag, str) and element.tag.startswith("{http://libvirt.org/schemas/domain/qemu/"):
            yield Blocker(BlockerCode.RAW_QEMU_OPTIONS, "raw QEMU options cannot be checked")


def _device_blockers(root: etree._Element) -> Iterator[Blocker]:
    for nic in root.findall("devices/interface"):
        if nic.get("type") not in {"bridge", "network"}:
            yield Blocker(
                BlockerCode.NETWORK_KIND, f"network card {_mac(nic)} is of type {nic.get('type')}; only bridges move"
            )
    for kind in ("serial", "console", "parallel", "channel"):
        for device in root.findall(f"devices/{kind}"):
            if device.get("type") not in {"pty", "unix", "file", "null", "spicevmc", "spiceport", "stdio"}:
                yield Blocker(
                    BlockerCode.HOST_CHARACTER_DEVICE, f"a {kind} device is bound to the host ({device.get('type')})"
                )
    for memory in root.findall("devices/memory"):
        if memory.get("model") != "dimm":
            yield Blocker(BlockerCode.PERSISTENT_MEMORY, f"a {memory.get('model')} memory device is backed by the host")


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


def _disk_blockers(disk: etree._Element) -> Iterator[Blocker]:
    name, device, kind = _target(disk), disk.get("device", "disk"), disk.get("type", "file")
    if device in {"cdrom", "floppy"}:
        if disk.find("source") is not None:
            yield Blocker(BlockerCode.REMOVABLE_MEDIA, f"{device} {name} has a medium inserted; eject it first")
        return
    if disk.find("shareable") is not None:
        yield Blocker(BlockerCode.SHARED_DISK, f"disk {name} is shared with other VMs")
    if device != "disk" or kind not in {"file", "block"}:
        yield Blocker(BlockerCode.DISK_KIND, f"disk {name} is a {kind} {device}; only files and block devices move")
    elif _disk_source(disk) is None:
        yield Blocker(BlockerCode.DISK_KIND, f"disk {name} has no source")
    if disk.find("transient") is not None:
        yield Blocker(BlockerCode.DISK_KIND, f"disk {name} is transient; its writes would be lost")
    if disk.find("source/encryption") is not None or disk.find("encryption") is not None:
        yield Blocker(BlockerCode.DISK_KIND, f"disk {name} is encrypted with a secret of this host")


# ---- rewriting --------------------------------------------------------------------------------------------------


def _remove(root: etree._Element, *paths: str) -> None:
    for path in paths:
        for element in root.findall(path):
            parent = element.getparent()
            if parent is not None:
                parent.remove(element)


def _set_text(root: etree._Element, path: str, value: str | None) -> None:
    element = root.find(path)
    if element is not None and value is not None:
        element.text = value


def _rewrite_disk(disk: etree._Element, places: HostPlaces) -> None:
    if _disk_source(disk) is None:
        return
    target = _target(disk)
    path = places.disks.get(target)
    if path is None:
        raise DomainXmlError(f"no path is given for {target}", element="disk")
    _remove(disk, "backingStore", "mirror", "source")
    disk.set("type", "file")
    driver = disk.find("driver")
    if driver is not None and target in places.disk_formats:
        driver.set("type", places.disk_formats[target])
    source = etree.Element("source", file=path)
    disk.insert(0 if driver is None else list(disk).index(driver) + 1, source)


def _rewrite_nic(nic: etree._Element, places: HostPlaces) -> None:
    mac = _mac(nic)
    bridge = places.bridges.get(mac)
    if bridge is None:
        raise DomainXmlError(f"no bridge is given for {mac}", element="interface")
    # A filter, a virtual port and a bandwidth class are objects of the old host.
    _remove(nic, "source", "target", "virtualport", "filterref", "bandwidth", "vlan", "port", "backend")
    nic.set("type", "bridge")
    nic.insert(1, etree.Element("source", bridge=bridge))


def _rewrite_character_device(device: etree._Element, places: HostPlaces) -> None:
    _drop(device, "tty")
    if device.get("type") in {"file", "stdio"}:
        device.set("type", "pty")
    # Without a source libvirt makes the pty, and the guest agent's socket, where this host keeps them.
    _remove(device, "source")
    log = device.find("log")
    if log is not None and places.console_log is not None:
        log.set("file", places.console_log)
    elif log is not None:
        device.remove(log)


def _rewrite_graphics(graphics: etree._Element) -> None:
    for name in ("port", "tlsPort", "websocket", "socket", "listen"):
        _drop(graphics, name)
    _remove(graphics, "listen")
    if graphics.get("type") in {"vnc", "spice"}:
        graphics.set("autoport", "yes")
        graphics.append(etree.Element("listen", type="address", address="127.0.0.1"))


def _to_text(root: etree._Element) -> str:
    etree.indent(root)
    return str(etree.tostring(root, encoding="unicode")) + "\n"


# ---- what the guest sees ----------------------------------------------------------------------------------------

_HOST_SIDE_PATHS = (
    "seclabel", "resource", "cputune", "numatune", "blkiotune", "memtune", "metadata", "title", "description",
    "currentMemory", "memoryBacking", "on_poweroff", "on_reboot", "on_crash", "pm",
    "devices/emulator", "devices/graphics", "devices/audio", "devices/*/alias",
    "os/kernel", "os/initrd", "os/nvram",
    "devices/disk/source", "devices/disk/driver", "devices/disk/backingStore", "devices/disk/mirror",
    "devices/disk/iotune",
    "devices/interface/source", "devices/interface/target", "devices/interface/bandwidth", "devices/interface/port",
    "devices/interface/virtualport", "devices/interface/filterref", "devices/interface/backend",
    "devices/interface/vlan",
    "devices/serial/source", "devices/serial/log", "devices/console/source", "devices/console/log",
    "devices/parallel/source", "devices/parallel/log", "devices/channel/source", "devices/channel/log",
    "devices/serial/protocol", "devices/console/protocol", "devices/rng/backend",
)  # fmt: skip
_HOST_SIDE_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    ".": ("id",),
    "vcpu": ("cpuset", "placement"),
    "devices/disk": ("type", "snapshot"),
    "devices/interface": ("type",),
    "devices/serial": ("type", "tty"),
    "devices/console": ("type", "tty"),
    "devices/parallel": ("type", "tty"),
    "devices/channel": ("type", "tty"),
    "devices/channel/target": ("state",),
    # How strictly the donor's libvirt checks the CPU at start is not what the guest sees.
    "cpu": ("check", "match"),
    "cpu/model": ("fallback",),
}


def _guest_view(root: etree._Element) -> etree._Element:
    """Strip, in place, what only the host sees, and write sizes in bytes."""
    for size in ("memory", "maxMemory"):
        if root.find(size) is not None:
            value = _size_bytes(root, size)
            element = root.find(size)
            if element is not None:
                element.text = str(value)
                _drop(element, "unit")
    _remove(root, *_HOST_SIDE_PATHS)
    for path, names in _HOST_SIDE_ATTRIBUTES.items():
        for element in root.findall(path):
            for name in names:
                _drop(element, name)
    for loader in root.findall("os/loader"):
        loader.text = None
    return root


def _sort_key(element: etree._Element) -> tuple[str, str]:
    return str(element.tag), _attributes(element) + (element.text or "").strip()


def _attributes(element: etree._Element) -> str:
    return " ".join(sorted(f"{name!s}={element.get(name)}" for name in element.attrib))


def _drop(element: etree._Element, name: str) -> None:
    if name in element.attrib:
        del element.attrib[name]


def _device_key(element: etree._Element) -> tuple[str, str]:
    """Devices are paired by tag and what is stable about them; order in the file means nothing to the guest."""
    stable = [element.get("type", ""), element.get("model", ""), element.get("index", "").zfill(6)]
    parts = (element.find("mac"), element.find("target"), element.find("address"))
    stable += [_attributes(part) for part in parts if part is not None]
    return str(element.tag), "|".join(stable)


def _compare(a: etree._Element, b: etree._Element, path: str) -> Iterator[str]:
    for name in sorted({*a.attrib, *b.attrib}, key=str):
        if a.get(name) != b.get(name):
            yield f"{path}@{name}: {a.get(name)!r} became {b.get(name)!r}"
    text_a, text_b = (a.text or "").strip(), (b.text or "").strip()
    if text_a != text_b:
        yield f"{path}: {text_a!r} became {text_b!r}"
    key: Callable[[etree._Element], tuple[str, str]] = _device_key if path == "domain/devices" else _sort_key
    children_a, children_b = sorted(a, key=key), sorted(b, key=key)
    tags_a, tags_b = [str(c.tag) for c in children_a], [str(c.tag) for c in children_b]
    if tags_a != tags_b:
        yield from _tag_differences(tags_a, tags_b, path)
        return
    for child_a, child_b in zip(children_a, children_b, strict=True):
        yield from _compare(child_a, child_b, f"{path}/{child_a.tag}")


def _tag_differences(tags_a: list[str], tags_b: list[str], path: str) -> Iterator[str]:
    for tag in sorted({*tags_a, *tags_b}):
        count_a, count_b = tags_a.count(tag), tags_b.count(tag)
        if count_a != count_b:
            yield f"{path}/{tag}: {count_a} became {count_b}"
