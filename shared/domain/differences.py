"""What a guest would notice between two domain XMLs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lxml import etree

from shared.domain.parsing import Domain, DomainSource, parse, remove_attribute, remove_elements, size_bytes

MAX_DIFFERENCES = 20
"""Differences listed before the comparison stops: a report for people, not a patch."""

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


def guest_abi_differences(a: DomainSource, b: DomainSource) -> list[str]:
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


def _guest_view(domain: Domain) -> etree._Element:
    """A copy without what only the host sees, and with sizes in bytes."""
    root = domain.tree_copy()
    for size in ("memory", "maxMemory"):
        if root.find(size) is not None:
            value = size_bytes(root, size)
            element = root.find(size)
            if element is not None:
                element.text = str(value)
                remove_attribute(element, "unit")
    remove_elements(root, *_HOST_SIDE_PATHS)
    for path, names in _HOST_SIDE_ATTRIBUTES.items():
        for element in root.findall(path):
            for name in names:
                remove_attribute(element, name)
    for loader in root.findall("os/loader"):
        loader.text = None
    return root


def _sort_key(element: etree._Element) -> tuple[str, str]:
    return str(element.tag), _attributes(element) + (element.text or "").strip()


def _attributes(element: etree._Element) -> str:
    return " ".join(sorted(f"{name!s}={element.get(name)}" for name in element.attrib))


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
