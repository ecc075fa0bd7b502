"""What a guest would notice between two definitions: parts that the table calls guest ABI, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from shared.domain.definition import DefinitionSource, Node, carried_text, read_definition
from shared.domain.parsing import UNIT_BYTES
from shared.domain.table import Fate, Row

MAX_DIFFERENCES = 20
"""Differences listed before the comparison stops: a report for people, not a patch."""

_DEFAULTS: Mapping[str, str] = {
    # What libvirt takes where nothing is written, and writes or not by its version.
    "cpu/feature@policy": "require",
    "devices/disk@device": "disk",
    "devices/*/address@domain": "0",
    "devices/*/address@multifunction": "off",
    "devices/console/target@type": "serial",
    "os/loader@type": "rom",
    "os/loader@secure": "no",
    "os/loader@stateless": "no",
    "vcpus/vcpu@hotpluggable": "yes",
}
_ON_BY_DEFAULT = ("features/",)
"""Below these an element without a state is one that is on."""
_ORDERED = frozenset({"domain/os", "domain/sysinfo/oemStrings"})
"""Here the order says something: what is tried first at a boot, and the numbers of strings."""
_THERE = frozenset({"devices/vsock", "devices/tpm/backend/encryption"})
"""That it is there counts, though all that is written in it may be its host's: a device, or that one is encrypted."""
_KIB_BY_DEFAULT = "KiB"


@dataclass(frozen=True, slots=True)
class View:
    """What the guest sees of one element, in one spelling: sizes in bytes, numbers without zeros in front."""

    name: str
    attributes: Mapping[str, str]
    text: str
    children: tuple[View, ...]


def guest_abi_differences(a: DefinitionSource, b: DefinitionSource) -> list[str]:
    """What a guest would notice between two definitions, as sentences; empty where it would notice nothing.

    A part that no row of the table knows counts as seen by the guest. Raises `DomainXmlError` for a document that is
    malformed or too large.
    """
    found: list[str] = []
    for difference in _compare(_seen(a), _seen(b), "domain"):
        found.append(difference)
        if len(found) == MAX_DIFFERENCES:
            break
    return found


def _seen(source: DefinitionSource) -> View:
    root = read_definition(source).root
    return _view(root) or View(root.name, {}, "", ())


def _view(node: Node) -> View | None:
    row = node.row
    if row is not None and row.fate is Fate.LIVE:
        return None
    attributes = {each.name: _spelled(each.row, each.value) for each in node.attributes if _is_seen(each.row)}
    text = _spelled(row, carried_text(row, node.text)) if row is not None and row.kind is not None else ""
    text = text if _is_seen(row) else ""
    children = tuple(view for view in map(_view, node.children) if view is not None)
    if node.path == "os" and _loader_is_chosen(node):
        children = _with_chosen_loader(children)
    is_there = _is_seen(row) and (node.is_flag or bool(attributes) or node.path in _THERE)
    _with_defaults(node, attributes)
    if not (attributes or text or children or is_there):
        return None
    size = _size_bytes(node, text, attributes)
    return View(node.name, attributes, text if size is None else str(size), children)


def _loader_is_chosen(os: Node) -> bool:
    loaders = (child for child in os.children if child.name == "loader")
    return os.get("firmware") == "efi" and all(loader.get("type") is None for loader in loaders)


def _with_chosen_loader(children: tuple[View, ...]) -> tuple[View, ...]:
    """Where libvirt chooses UEFI, it chooses a flash, written or not."""
    loader = next((child for child in children if child.name == "loader"), View("loader", {}, "", ()))
    chosen = replace(loader, attributes={"type": "pflash", **loader.attributes})
    return (*(child for child in children if child.name != "loader"), chosen)


def _is_seen(row: Row | None) -> bool:
    return row is None or row.fate in {Fate.ABI, Fate.REFUSED}


def _with_defaults(node: Node, attributes: dict[str, str]) -> None:
    for name, value in list(attributes.items()):
        if _DEFAULTS.get(f"{_general(node.path)}@{name}") == value:
            del attributes[name]
    if node.path.startswith(_ON_BY_DEFAULT) and attributes.get("state") == "on":
        del attributes["state"]


def _general(path: str) -> str:
    """The path with which `_DEFAULTS` speaks of an address of any device."""
    parts = path.split("/")
    return "devices/*/address" if len(parts) == 3 and parts[::2] == ["devices", "address"] else path


def _size_bytes(node: Node, text: str, attributes: dict[str, str]) -> int | None:
    """A size in bytes, and its unit taken away; sizes in attributes are changed where they stand."""
    unit = (attributes.pop("unit", None) or _KIB_BY_DEFAULT).lower()
    factor = UNIT_BYTES.get(unit)
    if node.get("unit") is None and node.path not in _SIZES:
        return None
    if factor is None:
        attributes["unit"] = unit
        return None
    for name in ("memory", "value"):
        if attributes.get(name, "").isdigit():
            attributes[name] = str(int(attributes[name]) * factor)
    return int(text) * factor if text.isdigit() else None


_SIZES = frozenset({"memory", "maxMemory", "cpu/numa/cell"})
"""Sizes in KiB where no unit is written."""


def _spelled(row: Row | None, value: str) -> str:
    """One spelling for values that mean the same."""
    kind = row.kind.name if row is not None and row.kind is not None else ""
    if row is None or row.kind is None or not row.kind.accepts(value):
        return value
    if kind == "hex" and (value.isdigit() or value[:2].lower() == "0x"):
        return str(int(value, 16 if value[:2].lower() == "0x" else 10))
    if kind in {"number", "signed"}:
        return str(int(value))
    if kind in {"uuid", "mac", "wwn"}:
        return value.lower().replace("-", "").removeprefix("0x")
    return value


def _attributes(view: View) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(view.attributes.items()))


def _sort_key(view: View) -> tuple[str, str]:
    return view.name, _attributes(view) + view.text


def _name_key(view: View) -> tuple[str, str]:
    return view.name, ""


def _device_key(view: View) -> tuple[str, str]:
    """Devices are paired by name and what is stable about them; order in the file means nothing to the guest."""
    stable = [view.attributes.get("type", ""), view.attributes.get("model", "")]
    stable.append(view.attributes.get("index", "").zfill(6))
    by_name = {child.name: child for child in view.children}
    stable += [_attributes(by_name[name]) for name in ("mac", "target", "address") if name in by_name]
    return view.name, "|".join(stable)


def _compare(a: View, b: View, path: str) -> Iterator[str]:
    for name in sorted({*a.attributes, *b.attributes}):
        was, now = a.attributes.get(name), b.attributes.get(name)
        if was != now:
            yield f"{path}@{name}: {was!r} became {now!r}"
    if a.text != b.text:
        yield f"{path}: {a.text!r} became {b.text!r}"
    key: Callable[[View], tuple[str, str]] = _device_key if path == "domain/devices" else _sort_key
    if path in _ORDERED:
        key = _name_key
    children_a, children_b = sorted(a.children, key=key), sorted(b.children, key=key)
    names_a, names_b = [c.name for c in children_a], [c.name for c in children_b]
    if names_a != names_b:
        yield from _count_differences(names_a, names_b, path)
        return
    for child_a, child_b in zip(children_a, children_b, strict=True):
        yield from _compare(child_a, child_b, f"{path}/{child_a.name}")


def _count_differences(names_a: list[str], names_b: list[str], path: str) -> Iterator[str]:
    for name in sorted({*names_a, *names_b}):
        count_a, count_b = names_a.count(name), names_b.count(name)
        if count_a != count_b:
            yield f"{path}/{name}: {count_a} became {count_b}"
