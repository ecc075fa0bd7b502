"""The form of a definition that may leave its host: what is carried, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from shared.domain.definition import Definition, DefinitionSource, Node, carried_text, read_definition
from shared.domain.parsing import Domain
from shared.domain.table import Fate, Row

Keep = Callable[[Row], bool]
_NEVER = frozenset({Fate.LIVE, Fate.REFUSED})


def portable(source: DefinitionSource) -> str:
    """The carried parts as XML: no path, socket, password or address of the host is in it."""
    return Domain(carried_tree(read_definition(source))).to_text()


def carried_tree(definition: Definition) -> etree._Element:
    """The same as a new tree, for changing."""
    root = kept_tree(definition.root, is_carried)
    if root is None:
        root = etree.Element("domain")
    loader, os = definition.domain.root.find("os/loader"), root.find("os")
    if loader is not None and loader.get("type") is None and os is not None and os.get("firmware") != "efi":
        # libvirt takes it for a ROM, where it does not choose itself; without its path nothing would say so.
        kept = os.find("loader")
        (etree.SubElement(os, "loader") if kept is None else kept).set("type", "rom")
    for screen in root.findall("devices/graphics"):
        if screen.get("type") is None:  # one of the host's own, of which nothing goes along
            _remove(screen)
    if definition.metadata is not None:
        root.append(definition.metadata.element())
    return root


def _remove(element: etree._Element) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def is_carried(row: Row) -> bool:
    """Whether a part goes with the VM."""
    return row.fate in {Fate.ABI, Fate.LASTING}


def kept_tree(node: Node, keep: Keep) -> etree._Element | None:
    """A new element with all of the node that is kept, by its rows; None where nothing is.

    An element that is bound to its host stays as the frame of what is kept in it. A value that is not of its row's
    kind is not kept, so that none gets out or in even where nobody looked at the findings.
    """
    row = node.row
    if row is None or row.fate in _NEVER:
        return None
    element = etree.Element(node.name)
    for attribute in node.attributes:
        if attribute.row is not None and keep(attribute.row) and _is_of_its_kind(attribute.row, attribute.value):
            element.set(attribute.name, attribute.value)
    for child in node.children:
        kept = kept_tree(child, keep)
        if kept is not None:
            element.append(kept)
    if keep(row):
        text = carried_text(row, node.text)
        if text and _is_of_its_kind(row, text):
            element.text = text
        # What was only written for the host's sake, such as an alias of libvirt's own, is not kept as an empty shell.
        if row.fate is Fate.ABI or node.is_flag:
            return element
    return element if len(element) or len(element.attrib) or element.text else None


def _is_of_its_kind(row: Row, value: str) -> bool:
    return row.kind is not None and row.kind.carried and row.kind.accepts(value)
