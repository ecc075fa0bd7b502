"""A definition written for a host: the carried parts, and what `HostPlaces` gives. Pure.

It is built, not patched: the tree begins with nothing, so that nothing of the donor's gets in that no row carries.
"""

from __future__ import annotations

from lxml import etree

from shared.domain.blockers import encryption_of
from shared.domain.definition import DefinitionSource, read_definition
from shared.domain.errors import DomainXmlError
from shared.domain.parsing import Domain, mac_of, target_of
from shared.domain.places import FirmwarePlace, HostPlaces, NicPlace
from shared.domain.portable import carried_tree

CHARACTER_DEVICES = ("serial", "console", "parallel", "channel")
RANDOM_SOURCE = "/dev/urandom"
_OWN_SOURCE = frozenset({"spiceport", "qemu-vdagent"})
"""Back ends whose source is the guest's business: a channel's name, the clipboard."""


def build_for_host(source: DefinitionSource, places: HostPlaces) -> Domain:
    """The VM for another host, with the same guest ABI.

    Raises `DomainXmlError` where the definition has a finding that blocks, or a part has no place.
    """
    definition = read_definition(source)
    if definition.blockers:
        raise DomainXmlError("it is not portable: " + "; ".join(str(each) for each in definition.blockers[:5]))
    root = carried_tree(definition)
    devices = root.find("devices")
    if devices is None:
        devices = etree.SubElement(root, "devices")
    _boot(root, places)
    access = root.find("memoryBacking/access")
    if access is not None and access.get("mode") == "shared":
        # Memory that is shared with other processes, and that no file of the host holds.
        held = _child(_child(root, "memoryBacking"), "source")
        held.set("type", held.get("type", "memfd"))
    if places.emulator is not None:
        _child(devices, "emulator").text = places.emulator
    for disk in devices.findall("disk"):
        _disk(disk, places)
    for index, nic in enumerate(devices.findall("interface")):
        if index >= len(places.nics):
            raise DomainXmlError(f"no network is given for card {index} ({mac_of(nic)})", element="interface")
        _nic(nic, places.nics[index])
    for kind in CHARACTER_DEVICES:
        for index, device in enumerate(devices.findall(kind)):
            _character_device(device, places.logs.get(f"{kind} {index}"))
    _other_devices(devices, places)
    return Domain(root)


def _other_devices(devices: etree._Element, places: HostPlaces) -> None:
    for graphics in devices.findall("graphics"):
        graphics.set("autoport", "yes")
        etree.SubElement(graphics, "listen", type="address", address=places.listen)
    for rng in devices.findall("rng"):
        backend = _child(rng, "backend")
        backend.set("model", backend.get("model", "random"))
        if backend.get("model") == "random":
            backend.text = RANDOM_SOURCE
    _memory_files(devices, places)
    for vsock in devices.findall("vsock"):
        _child(vsock, "cid").set("auto", "yes")
    for backend in devices.findall("tpm/backend"):
        # Else libvirt deletes the state of a transient guest when it ends, and one that arrives is transient at first.
        backend.set("persistent_state", "yes")
        for encryption in backend.findall("encryption"):
            encryption.set("secret", _secret_for("tpm", places))


def _memory_files(devices: etree._Element, places: HostPlaces) -> None:
    for index, memory in enumerate(devices.findall("memory")):
        if memory.get("model") == "nvdimm":
            # What the guest writes must get into the file: it is all that the guest finds after its next start.
            memory.set("access", "shared")
            _child(_child(memory, "source"), "path").text = _file_for(f"memory {index}", places)
    for pstore in devices.findall("pstore"):
        _child(pstore, "path").text = _file_for("pstore", places)


def _secret_for(device: str, places: HostPlaces) -> str:
    secret = places.secrets.get(device)
    if secret is None:
        raise DomainXmlError(f"no secret is given for {device}", element="encryption")
    return str(secret)


def _file_for(name: str, places: HostPlaces) -> str:
    path = places.memory_files.get(name)
    if path is None:
        raise DomainXmlError(f"no file is given for {name}", element="memory")
    return path


def _child(parent: etree._Element, name: str) -> etree._Element:
    found = parent.find(name)
    return found if found is not None else etree.SubElement(parent, name)


def _boot(root: etree._Element, places: HostPlaces) -> None:
    os = root.find("os")
    if os is None:
        raise DomainXmlError("missing", element="os")
    for name, path in (("kernel", places.kernel), ("initrd", places.initrd)):
        if path is not None:
            _child(os, name).text = path
    if os.find("loader") is not None or os.get("firmware") == "efi":
        if places.firmware is None:
            raise DomainXmlError("no firmware is given", element="os/loader")
        _firmware(os, places.firmware)


def _firmware(os: etree._Element, place: FirmwarePlace) -> None:
    loader = os.find("loader")
    if loader is None:
        loader = etree.SubElement(os, "loader")
    is_rom = loader.get("type", "pflash" if os.get("firmware") == "efi" else "rom") == "rom"
    loader.text = place.loader
    loader.set("format", place.loader_format)
    loader.set("type", "rom" if is_rom else "pflash")
    if not is_rom:
        loader.set("readonly", "yes")
    if place.nvram is not None:
        nvram = _child(os, "nvram")
        nvram.text = place.nvram
        if place.template is not None:
            nvram.set("template", place.template)
            nvram.set("templateFormat", place.template_format)
        nvram.set("format", place.nvram_format)
    _keep_choice(os, place)


def _keep_choice(os: etree._Element, place: FirmwarePlace) -> None:
    """The wish that libvirt should choose stays where it would choose what was given; else it would refuse both."""
    wished = {part.get("name"): part.get("enabled") for part in os.findall("firmware/feature")}
    offered = place.features
    if offered is None or any((enabled == "yes") != (name in offered) for name, enabled in wished.items()):
        if "firmware" in os.attrib:
            del os.attrib["firmware"]
        for part in os.findall("firmware"):
            os.remove(part)


def _disk(disk: etree._Element, places: HostPlaces) -> None:
    target = target_of(disk)
    disk.set("type", "file")
    path = places.disks.get(target)
    if path is None:
        if disk.get("device", "disk") == "disk":
            raise DomainXmlError(f"no path is given for {target}", element="disk")
        policy = disk.find("source")
        if policy is not None:  # of a medium that is not there
            disk.remove(policy)
        return
    driver = disk.find("driver")
    if target in places.disk_formats:
        if driver is None:
            driver = etree.Element("driver", name="qemu")
            disk.insert(0, driver)
        driver.set("type", places.disk_formats[target])
    source = _child(disk, "source")
    source.set("file", path)
    encryption = encryption_of(disk)
    if encryption is not None:
        etree.SubElement(encryption, "secret", type="passphrase", uuid=_secret_for(f"disk {target}", places))


def _nic(nic: etree._Element, place: NicPlace) -> None:
    if place.network:
        nic.set("type", "network")
        source = _child(nic, "source")
        source.set("network", place.network)
        if place.port_group:
            source.set("portgroup", place.port_group)
    elif place.bridge:
        nic.set("type", "bridge")
        _child(nic, "source").set("bridge", place.bridge)
    else:
        nic.set("type", "user")
        return
    if place.vlan is not None and place.vlan.tags:
        vlan = _child(nic, "vlan")
        if place.vlan.trunk:
            vlan.set("trunk", "yes")
        for tag in place.vlan.tags:
            element = etree.SubElement(vlan, "tag", id=str(tag))
            if tag == place.vlan.native:
                element.set("nativeMode", place.vlan.native_mode or "untagged")
    if place.virtualport:
        _child(nic, "virtualport").set("type", place.virtualport)
    if place.isolated:
        _child(nic, "port").set("isolated", "yes")


def _character_device(device: etree._Element, log: str | None) -> None:
    kind = device.get("type", "pty")
    device.set("type", kind)
    if kind not in _OWN_SOURCE:
        source = device.find("source")
        if source is not None:
            device.remove(source)
        # Without a source libvirt makes the pty, and a channel's socket, where this host keeps them.
    if log is not None:
        _child(device, "log").set("file", log)
