"""What a VM is, as plain values read from its definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lxml import etree
from pydantic import ValidationError

from shared.domain.blockers import MAX_VLAN_TAGS, encryption_of, is_empty_drive, is_passt, vlan_tag
from shared.domain.definition import Definition, DefinitionSource, read_definition
from shared.domain.errors import DomainXmlError
from shared.domain.facts import (
    DiskFacts,
    LayerFacts,
    MemoryFile,
    NicFacts,
    SecretUsage,
    SecretUse,
    VmFacts,
    does_not_fit,
)
from shared.domain.findings import Finding
from shared.domain.media import medium_blockers
from shared.domain.needs import NEXT_MEMORY, NEXT_VCPUS, needs_of
from shared.domain.parsing import (
    attribute_of,
    mac_of,
    name_of,
    required_text,
    size_bytes,
    source_of,
    target_of,
    text_of,
    whole_number,
)
from shared.domain.portable import is_carried, kept_tree
from shared.messages.vm import CpuFacts, CpuFeature, CpuMode, FirmwareFacts, FirmwareInterface, Need, Vlan


def describe(source: DefinitionSource) -> VmFacts:
    """Read a live, stored or portable definition. Raises `DomainXmlError` where something that every VM has is missing,
    or a value is larger than what is told of a VM.
    """
    definition = read_definition(source)
    try:
        return _facts(definition)
    except ValidationError as error:
        raise does_not_fit(error) from error


def next_needs(lasting: DefinitionSource) -> tuple[Need, ...]:
    """What the VM needs of its host after its next start. Raises `DomainXmlError` as `describe`."""
    facts = describe(lasting)
    return (
        *facts.needs,
        Need(kind=NEXT_VCPUS, value=str(facts.vcpus_max)),
        Need(kind=NEXT_MEMORY, value=str(facts.memory_bytes)),
    )


def _facts(definition: Definition) -> VmFacts:
    root = definition.domain.root
    os_type = root.find("os/type")
    if os_type is None:
        raise DomainXmlError("no <type>", element="os")
    cpu = root.find("cpu")
    maximum = whole_number(required_text(root, "vcpu"), "vcpu")
    current = attribute_of(root, "vcpu", "current")
    vcpus = maximum if current is None else whole_number(current, "vcpu")
    if vcpus > maximum:
        raise DomainXmlError(f"{vcpus} run now, and there may be {maximum}", element="vcpu")
    memory = size_bytes(root, "memory")
    # libvirt takes a larger one for all of it.
    held = memory if root.find("currentMemory") is None else min(memory, size_bytes(root, "currentMemory"))
    return VmFacts(
        uuid=required_text(root, "uuid").lower(),
        name=name_of(root),
        virt_type=root.get("type", "kvm"),
        arch=os_type.get("arch", "x86_64"),
        machine=os_type.get("machine", ""),
        memory_bytes=memory,
        memory_current_bytes=held,
        vcpus=vcpus,
        vcpus_max=maximum,
        cpu_mode=cpu.get("mode", "custom") if cpu is not None else "default",
        cpu_model=text_of(root, "cpu/model"),
        cpu_features=tuple(_cpu_feature(feature) for feature in root.findall("cpu/feature")),
        cpu=_cpu(definition, cpu),
        firmware=_firmware(root),
        firmware_facts=_firmware_facts(root),
        loader=text_of(root, "os/loader"),
        nvram=text_of(root, "os/nvram") or attribute_of(root, "os/nvram/source", "file"),
        kernel=text_of(root, "os/kernel"),
        initrd=text_of(root, "os/initrd"),
        needs=needs_of(root),
        drives=tuple(_drives(root, medium_blockers(definition))),
        nics=tuple(_nic(nic) for nic in root.findall("devices/interface")),
        ports=tuple(_ports(root)),
        memory_files=tuple(_memory_files(root)),
        secrets=tuple(_secrets(root)),
        findings=definition.findings,
    )


def _cpu_feature(feature: etree._Element) -> str:
    sign = "-" if feature.get("policy") in {"disable", "forbid"} else "+"
    return f"{sign}{feature.get('name')}"


def _cpu(definition: Definition, cpu: etree._Element | None) -> CpuFacts:
    if cpu is None:
        return CpuFacts()
    mode = cpu.get("mode", "custom")
    node = next((child for child in definition.root.children if child.name == "cpu"), None)
    kept = kept_tree(node, is_carried) if node is not None else None
    return CpuFacts(
        mode=CpuMode(mode) if mode in set(CpuMode) else CpuMode.CUSTOM,
        model=text_of(cpu, "model") or "",
        vendor=text_of(cpu, "vendor") or "",
        features=tuple(
            CpuFeature(name=feature.get("name", ""), policy=feature.get("policy", "require"))
            for feature in cpu.findall("feature")
        ),
        expanded=str(etree.tostring(kept, encoding="unicode")) if kept is not None else "",
    )


def _firmware(root: etree._Element) -> str:
    chosen = attribute_of(root, "os", "firmware") == "efi"
    return "uefi" if chosen or attribute_of(root, "os/loader", "type") == "pflash" else "bios"


def _firmware_facts(root: etree._Element) -> FirmwareFacts | None:
    os, loader, nvram = root.find("os"), root.find("os/loader"), root.find("os/nvram")
    automatic = os is not None and os.get("firmware") == "efi"
    if loader is None and not automatic:
        return None
    interface = FirmwareInterface.EFI_AUTO
    if loader is not None and not (automatic and loader.get("type") is None):
        interface = FirmwareInterface.PFLASH if loader.get("type") == "pflash" else FirmwareInterface.ROM
    asked = {feature.get("name"): feature.get("enabled") for feature in root.findall("os/firmware/feature")}
    secure = loader is not None and loader.get("secure") == "yes"
    return FirmwareFacts(
        interface=interface,
        secure_boot=secure or asked.get("secure-boot") == "yes",
        format=(loader.get("format") if loader is not None else None) or "raw",
        nvram=nvram is not None,
        nvram_format=(nvram.get("format") if nvram is not None else None) or "raw",
    )


def _drives(root: etree._Element, blockers: Mapping[str, tuple[Finding, ...]]) -> Iterator[DiskFacts]:
    targets: set[str] = set()
    for disk in root.findall("devices/disk"):
        if target_of(disk) in targets:
            raise DomainXmlError(f"two are {target_of(disk)}", element="disk")
        targets.add(target_of(disk))
        source, device = source_of(disk), disk.get("device", "disk")
        image_format = attribute_of(disk, "driver", "type") or "raw"
        yield DiskFacts(
            target=target_of(disk),
            bus=attribute_of(disk, "target", "bus") or "virtio",
            format=image_format,
            source=source or "",
            read_only=disk.find("readonly") is not None or device == "cdrom",
            layers=tuple(_layers(disk, image_format)) if source else (),
            device=device,
            kind=disk.get("type", "file"),
            shared=disk.find("shareable") is not None,
            serial=text_of(disk, "serial") or "",
            empty=is_empty_drive(disk),
            medium_blockers=tuple(map(str, blockers.get(target_of(disk), ()))),
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


def _nic(nic: etree._Element) -> NicFacts:
    isolated = attribute_of(nic, "port", "isolated") == "yes"
    return NicFacts(
        mac=mac_of(nic),
        model=attribute_of(nic, "model", "type") or "rtl8139",
        bridge=attribute_of(nic, "source", "bridge"),
        kind=_kind(nic),
        network=attribute_of(nic, "source", "network") or "",
        port_group=attribute_of(nic, "source", "portgroup") or "",
        vlan=_vlan(nic),
        virtualport=attribute_of(nic, "virtualport", "type") or "",
        isolated=isolated,
        filter=attribute_of(nic, "filterref", "filter") or "",
        has_bandwidth=nic.find("bandwidth") is not None,
    )


PASST_VHOST = "passt-vhost"
"""A card of passt that talks to it over vhost-user: the guest may have its offloads, which others of passt have not."""


def _kind(nic: etree._Element) -> str:
    if is_passt(nic):
        return PASST_VHOST if nic.get("type") == "vhostuser" else "passt"
    return nic.get("type", "")


def _ports(root: etree._Element) -> Iterator[str]:
    for index, _ in enumerate(root.findall("devices/serial")):
        yield f"serial {index}"
    for index, console in enumerate(root.findall("devices/console")):
        # The first console may be the first serial port once more, under its other name.
        if (attribute_of(console, "target", "type") or "serial") != "serial":
            yield f"console {index}"


def _memory_files(root: etree._Element) -> Iterator[MemoryFile]:
    for index, memory in enumerate(root.findall("devices/memory")):
        if memory.get("model") == "nvdimm":
            yield MemoryFile(f"memory {index}", text_of(memory, "source/path"), size_bytes(memory, "target/size"))
    for pstore in root.findall("devices/pstore"):
        yield MemoryFile("pstore", text_of(pstore, "path"), size_bytes(pstore, "size"))


def _secrets(root: etree._Element) -> Iterator[SecretUse]:
    for encryption in root.findall("devices/tpm/backend/encryption"):
        yield SecretUse("tpm", SecretUsage.VTPM, uuid=encryption.get("secret", "").lower())
    for disk in root.findall("devices/disk"):
        encrypted = encryption_of(disk)
        if encrypted is not None:
            yield SecretUse(
                f"disk {target_of(disk)}",
                SecretUsage.VOLUME,
                target=target_of(disk),
                uuid=(attribute_of(encrypted, "secret", "uuid") or "").lower(),
                usage_id=attribute_of(encrypted, "secret", "usage") or "",
            )


def _vlan(nic: etree._Element) -> Vlan | None:
    vlan = nic.find("vlan")
    if vlan is None:
        return None
    # What is no tag has a finding that blocks.
    tags = [each for each in map(vlan_tag, vlan.findall("tag")) if each is not None][:MAX_VLAN_TAGS]
    native = next(((tag, mode) for tag, mode in tags if mode), (None, ""))
    return Vlan(
        tags=tuple(tag for tag, _ in tags),
        trunk=vlan.get("trunk") == "yes" or len(tags) > 1,
        native=native[0],
        native_mode=native[1],
    )
