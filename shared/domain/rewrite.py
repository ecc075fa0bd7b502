"""The same VM written for another host: host-side parts replaced or dropped, the guest's view untouched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lxml import etree

from shared.domain.errors import DomainXmlError
from shared.domain.parsing import (
    Domain,
    DomainSource,
    mac_of,
    parse,
    remove_attribute,
    remove_elements,
    source_of,
    target_of,
)


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


def rewrite_for_host(xml: DomainSource, places: HostPlaces) -> Domain:
    """Return the same VM for another host: other paths and bridges, no traces of the old host, the same guest ABI.

    Raises `DomainXmlError` where a disk has no new path or a card no new bridge.
    """
    root = parse(xml).tree_copy()
    remove_attribute(root, "id")
    # Pins, weights and partitions speak of the old host's CPUs and cgroups.
    remove_elements(
        root, "seclabel", "resource", "cputune", "numatune", "blkiotune", "devices/*/alias", "devices/audio"
    )
    _set_text(root, "devices/emulator", places.emulator)
    _set_text(root, "os/loader", places.loader)
    _set_text(root, "os/nvram", places.nvram)
    _set_text(root, "os/kernel", places.kernel)
    _set_text(root, "os/initrd", places.initrd)
    for nvram in root.findall("os/nvram"):
        # The contents of the UEFI variables come with the VM; their template lies at the old host.
        remove_attribute(nvram, "template")
        remove_attribute(nvram, "templateFormat")
    for disk in root.findall("devices/disk"):
        _rewrite_disk(disk, places)
    for nic in root.findall("devices/interface"):
        _rewrite_nic(nic, places)
    for kind in ("serial", "console", "parallel", "channel"):
        for device in root.findall(f"devices/{kind}"):
            _rewrite_character_device(device, places)
    for graphics in root.findall("devices/graphics"):
        _rewrite_graphics(graphics)
    return Domain(root)


def _set_text(root: etree._Element, path: str, value: str | None) -> None:
    element = root.find(path)
    if element is not None and value is not None:
        element.text = value


def _rewrite_disk(disk: etree._Element, places: HostPlaces) -> None:
    if source_of(disk) is None:
        return
    target = target_of(disk)
    path = places.disks.get(target)
    if path is None:
        raise DomainXmlError(f"no path is given for {target}", element="disk")
    remove_elements(disk, "backingStore", "mirror", "source")
    disk.set("type", "file")
    driver = disk.find("driver")
    if driver is not None and target in places.disk_formats:
        driver.set("type", places.disk_formats[target])
    source = etree.Element("source", file=path)
    disk.insert(0 if driver is None else list(disk).index(driver) + 1, source)


def _rewrite_nic(nic: etree._Element, places: HostPlaces) -> None:
    mac = mac_of(nic)
    bridge = places.bridges.get(mac)
    if bridge is None:
        raise DomainXmlError(f"no bridge is given for {mac}", element="interface")
    # A filter, a virtual port and a bandwidth class are objects of the old host.
    remove_elements(nic, "source", "target", "virtualport", "filterref", "bandwidth", "vlan", "port", "backend")
    nic.set("type", "bridge")
    nic.insert(1, etree.Element("source", bridge=bridge))


def _rewrite_character_device(device: etree._Element, places: HostPlaces) -> None:
    remove_attribute(device, "tty")
    if device.get("type") in {"file", "stdio"}:
        device.set("type", "pty")
    # Without a source libvirt makes the pty, and the guest agent's socket, where this host keeps them.
    remove_elements(device, "source")
    log = device.find("log")
    if log is not None and places.console_log is not None:
        log.set("file", places.console_log)
    elif log is not None:
        device.remove(log)


def _rewrite_graphics(graphics: etree._Element) -> None:
    for name in ("port", "tlsPort", "websocket", "socket", "listen"):
        remove_attribute(graphics, name)
    remove_elements(graphics, "listen")
    if graphics.get("type") in {"vnc", "spice"}:
        graphics.set("autoport", "yes")
        graphics.append(etree.Element("listen", type="address", address="127.0.0.1"))
