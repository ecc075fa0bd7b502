"""What a host can run: libvirt's capability XML and texts of /proc, read by pure functions; bridges, read in /sys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from shared.messages.vm import Firmware

_MAX_XML_BYTES = 8 << 20
SYSFS = Path("/sys/class/net")


def _parse(xml: str) -> etree._Element:
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


def guest_kinds(capabilities_xml: str, architecture: str) -> GuestKinds:
    """Return domain types and versioned machine types for `architecture`; both empty where it cannot be run."""
    root = _parse(capabilities_xml)
    for arch in root.findall("guest/arch"):
        if arch.get("name") != architecture:
            continue
        # A name with `canonical` is an alias (q35), which means another machine on another host.
        machines = {m.text or "" for m in arch.iter("machine") if m.get("canonical") is None}
        machines |= {m.get("canonical") or "" for m in arch.iter("machine") if m.get("canonical") is not None}
        kinds = {domain.get("type") or "" for domain in arch.findall("domain")}
        return GuestKinds(
            architecture,
            tuple(kind for kind in ("kvm", "qemu") if kind in kinds),
            tuple(sorted(machines - {""}, key=_natural, reverse=True)),
        )
    return GuestKinds(architecture, (), ())


def usable_cpu_models(domain_capabilities_xml: str) -> tuple[str, ...]:
    """Return named CPU models that a guest can have here, the one nearest to the host's own CPU first."""
    root = _parse(domain_capabilities_xml)
    own = root.findtext("cpu/mode[@name='host-model']/model")
    named = [m.text or "" for m in root.findall("cpu/mode[@name='custom']/model") if m.get("usable") == "yes"]
    return tuple(dict.fromkeys(([own] if own else []) + sorted(named, key=_natural)))


def firmwares(domain_capabilities_xml: str) -> tuple[Firmware, ...]:
    """Return the ways in which a guest can boot here."""
    root = _parse(domain_capabilities_xml)
    uefi = "efi" in {value.text for value in root.findall("os/enum[@name='firmware']/value")}
    return (Firmware.BIOS, Firmware.DIRECT_KERNEL, *((Firmware.UEFI,) if uefi else ()))


def available_memory_bytes(meminfo: str) -> int:
    """Return MemAvailable of /proc/meminfo; 0 where it is not told."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def version_triple(number: int) -> tuple[int, int, int]:
    """Return libvirt's number (major * 1,000,000 + minor * 1,000 + release) as three."""
    return number // 1_000_000, number // 1_000 % 1_000, number % 1_000


def existing_bridges(names: Iterable[str], sysfs: Path = SYSFS) -> tuple[str, ...]:
    """Return those of `names` that are bridges of this host now.

    vmport plugs nothing into them: libvirt does that when the guest starts, and QEMU announces the guest's MAC
    addresses (RARP, several rounds) when it runs.
    """
    return tuple(name for name in names if (sysfs / name / "bridge").is_dir())


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name))
