"""What a host can run: libvirt's capability XML and texts of /proc, read by pure functions; what the kernel says of it.

Devices are `device_offers`', firmware is `firmware_descriptors`'.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import re
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from shared.messages.host import HugePages
from shared.messages.vm import Firmware

_MAX_XML_BYTES = 8 << 20
SYSFS = Path("/sys/class/net")
HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
SWITCH_SOCKETS = Path("/run/openvswitch")
_SIOCETHTOOL, _ETHTOOL_GDRVINFO, _DRIVER_INFO_BYTES = 0x8946, 3, 196
"""linux/sockios.h and linux/ethtool.h."""


def parse_capabilities(xml: str) -> etree._Element:
    """libvirt's answer as a tree. Raises `ValueError` for one that is too large."""
    if len(xml) > _MAX_XML_BYTES:
        raise ValueError(f"capabilities of {len(xml)} bytes; at most {_MAX_XML_BYTES} are read")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    return etree.fromstring(xml.encode(), parser)


@dataclass(frozen=True, slots=True)
class GuestKinds:
    """What libvirt's host capabilities offer for one architecture."""

    architecture: str
    accelerators: tuple[str, ...]
    machines: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Aliases such as q35, and the machine that each means here."""
    deprecated: tuple[str, ...] = ()


def guest_kinds(capabilities_xml: str, architecture: str) -> GuestKinds:
    """Return domain types and versioned machine types for `architecture`; both empty where it cannot be run."""
    root = parse_capabilities(capabilities_xml)
    for arch in root.findall("guest/arch"):
        if arch.get("name") != architecture:
            continue
        # A name with `canonical` is an alias (q35), which means another machine on another host.
        aliases = {m.text or "": m.get("canonical") or "" for m in arch.iter("machine") if m.get("canonical")}
        machines = {m.text or "" for m in arch.iter("machine") if not m.get("canonical")} | set(aliases.values())
        deprecated = {m.text or "" for m in arch.iter("machine") if m.get("deprecated") == "yes"} - set(aliases)
        kinds = {domain.get("type") or "" for domain in arch.findall("domain")}
        return GuestKinds(
            architecture,
            tuple(kind for kind in ("kvm", "qemu") if kind in kinds),
            tuple(sorted(machines - {""}, key=_natural, reverse=True)),
            dict(sorted(aliases.items())),
            tuple(sorted(deprecated - {""}, key=_natural, reverse=True)),
        )
    return GuestKinds(architecture, (), ())


def usable_cpu_models(domain_capabilities_xml: str) -> tuple[str, ...]:
    """Return named CPU models that a guest can have here, the one nearest to the host's own CPU first."""
    root = parse_capabilities(domain_capabilities_xml)
    own = root.findtext("cpu/mode[@name='host-model']/model")
    named = [m.text or "" for m in root.findall("cpu/mode[@name='custom']/model") if m.get("usable") == "yes"]
    return tuple(dict.fromkeys(([own] if own else []) + sorted(named, key=_natural)))


def firmwares(domain_capabilities_xml: str) -> tuple[Firmware, ...]:
    """Return the ways in which a guest can boot here."""
    root = parse_capabilities(domain_capabilities_xml)
    uefi = "efi" in {value.text for value in root.findall("os/enum[@name='firmware']/value")}
    return (Firmware.BIOS, Firmware.DIRECT_KERNEL, *((Firmware.UEFI,) if uefi else ()))


def host_cpu_digest(capabilities_xml: str, domain_capabilities: Iterable[str]) -> str:
    """A digest of the host's CPU: what libvirt says of it, and what each accelerator gives a guest of it.

    Equal for two hosts on which a guest with the host's own CPU sees the same: model, vendor, stepping, microcode,
    features, width of addresses, and a TSC that can be scaled or has the same frequency. Topology is the host's affair.
    """
    facts: list[str] = []
    host = parse_capabilities(capabilities_xml).find("host/cpu")
    for part in host if host is not None else ():
        is_scaled = part.tag == "counter" and part.get("scaling") == "yes"
        if isinstance(part.tag, str) and part.tag not in {"topology", "pages"} and not is_scaled:
            facts.append(_canonical(part))
    for xml in domain_capabilities:
        root = parse_capabilities(xml)
        mode = root.find("cpu/mode[@name='host-model']")
        facts += [f"{root.findtext('domain')}: {_canonical(part)}" for part in (mode if mode is not None else ())]
    return hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest() if facts else ""


def _canonical(element: etree._Element) -> str:
    attributes = " ".join(sorted(f"{name}={element.get(name)}" for name in map(str, element.attrib)))
    return f"{element.tag} {attributes} {(element.text or '').strip()}"


def huge_pages(folder: Path = HUGE_PAGES) -> tuple[HugePages, ...]:
    """What this host has of huge pages now, the smallest size first; sizes of which it has none are left out."""
    found = []
    for each in folder.glob("hugepages-*kB") if folder.is_dir() else ():
        size_kib = int(each.name.removeprefix("hugepages-").removesuffix("kB"))
        total, free = (int((each / name).read_text()) for name in ("nr_hugepages", "free_hugepages"))
        if total:
            found.append(HugePages(size_bytes=size_kib << 10, total=total, free=free))
    return tuple(sorted(found, key=lambda pages: pages.size_bytes))


def available_memory_bytes(meminfo: str) -> int:
    """Return MemAvailable of /proc/meminfo; 0 where it is not told."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def version_triple(number: int) -> tuple[int, int, int]:
    """Return libvirt's number (major * 1,000,000 + minor * 1,000 + release) as three."""
    return number // 1_000_000, number // 1_000 % 1_000, number % 1_000


def existing_bridges(names: Iterable[str], sysfs: Path = SYSFS) -> tuple[str, ...]:
    """Return those of `names` that are Linux bridges of this host now.

    vmport plugs nothing into them: libvirt does that when the guest starts, and QEMU announces the guest's MAC
    addresses (RARP, several rounds) when it runs.
    """
    return tuple(name for name in names if (sysfs / name / "bridge").is_dir())


def existing_switches(
    names: Iterable[str], driver_of: Callable[[str], str | None], sockets: Path = SWITCH_SOCKETS
) -> tuple[str, ...]:
    """Return those of `names` that are bridges of Open vSwitch now.

    Where the kernel moves its frames, the bridge's card has Open vSwitch's driver. Where its daemon does (the datapath
    `netdev`, also with DPDK), the card is a tap device like others: there the daemon's socket for the bridge tells.
    """

    def is_switch(name: str) -> bool:
        driver = driver_of(name)
        return driver == "openvswitch" or (driver == "tun" and (sockets / f"{name}.mgmt").is_socket())

    return tuple(name for name in names if is_switch(name))


def card_driver(name: str) -> str | None:
    """The driver of a network card of this host; None where there is no such card, or it has none to tell."""
    get_driver = struct.pack("I", _ETHTOOL_GDRVINFO) + bytes(_DRIVER_INFO_BYTES - 4)
    answer = array.array("B", get_driver)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("16sP", name.encode()[:15], answer.buffer_info()[0])
        try:
            fcntl.ioctl(asking, _SIOCETHTOOL, request)
        except OSError:
            return None
    return answer.tobytes()[4:36].split(b"\0")[0].decode("ascii", "replace")


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name))
