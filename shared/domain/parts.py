"""What people call a part of a definition: disk vda, network card 52:54:…, serial 0. Pure."""

from __future__ import annotations

from lxml import etree

_MAX_NAME = 64


def part_name(element: etree._Element, path: str) -> str:
    """A device's own name; empty for what is no device."""
    folder, _, kind = path.rpartition("/")
    if folder != "devices":
        return ""
    if kind == "disk":
        return f"disk {_attribute(element, 'target', 'dev')}"
    if kind == "interface":
        return f"network card {_attribute(element, 'mac', 'address')}"
    number = _attribute(element, "target", "port")
    if kind in {"serial", "parallel", "console"}:
        return f"{kind} {number}".strip()
    if kind == "channel":
        return f"channel {_attribute(element, 'target', 'name')}".strip()
    if kind == "controller":
        return f"controller {element.get('type', '')[:_MAX_NAME]} {element.get('index', '')[:_MAX_NAME]}".strip()
    return kind


def _attribute(element: etree._Element, child: str, name: str) -> str:
    found = element.find(child)
    return (found.get(name) or "")[:_MAX_NAME] if found is not None else ""
