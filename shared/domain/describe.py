"""What a VM is, as plain values read from its domain XML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from shared.domain.blockers import Blocker, blockers_of
from shared.domain.errors import DomainXmlError
from shared.domain.parsing import (
    DomainSource,
    mac_of,
    parse,
    required_text,
    size_bytes,
    source_of,
    target_of,
    text_of,
    whole_number,
)


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


def describe(xml: DomainSource) -> VmFacts:
    """Read a live or stored domain XML. Raises `DomainXmlError` where something that every VM has is missing."""
    root = parse(xml).root
    os_type = root.find("os/type")
    if os_type is None:
        raise DomainXmlError("no <type>", element="os")
    cpu = root.find("cpu")
    return VmFacts(
        uuid=required_text(root, "uuid").lower(),
        name=required_text(root, "name"),
        virt_type=root.get("type", "kvm"),
        arch=os_type.get("arch", "x86_64"),
        machine=os_type.get("machine", ""),
        memory_bytes=size_bytes(root, "memory"),
        vcpus=whole_number(required_text(root, "vcpu"), "vcpu"),
        cpu_mode=cpu.get("mode", "custom") if cpu is not None else "default",
        cpu_model=text_of(root, "cpu/model"),
        cpu_features=tuple(_cpu_feature(feature) for feature in root.findall("cpu/feature")),
        firmware=_firmware(root),
        loader=text_of(root, "os/loader"),
        nvram=text_of(root, "os/nvram"),
        kernel=text_of(root, "os/kernel"),
        initrd=text_of(root, "os/initrd"),
        disks=tuple(_disks(root)),
        nics=tuple(_nics(root)),
        blockers=tuple(blockers_of(root)),
    )


def _cpu_feature(feature: etree._Element) -> str:
    sign = "-" if feature.get("policy") in {"disable", "forbid"} else "+"
    return f"{sign}{feature.get('name')}"


def _firmware(root: etree._Element) -> str:
    os, loader = root.find("os"), root.find("os/loader")
    chosen = os is not None and os.get("firmware") == "efi"
    return "uefi" if chosen or (loader is not None and loader.get("type") == "pflash") else "bios"


def _disks(root: etree._Element) -> Iterator[DiskFacts]:
    for disk in root.findall("devices/disk"):
        source = source_of(disk)
        if source is None:
            continue
        driver, target = disk.find("driver"), disk.find("target")
        image_format = (driver.get("type") if driver is not None else None) or "raw"
        yield DiskFacts(
            target=target_of(disk),
            bus=(target.get("bus") if target is not None else None) or "virtio",
            format=image_format,
            source=source,
            read_only=disk.find("readonly") is not None or disk.get("device") == "cdrom",
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
            mac=mac_of(nic),
            model=(model.get("type") if model is not None else None) or "rtl8139",
            bridge=source.get("bridge") if source is not None else None,
        )
