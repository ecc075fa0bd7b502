"""Metadata of a VM: data of people and tools, which libvirt keeps and does not interpret. Pure.

Its elements of any namespace are carried with their attributes and text, within a limit; what is larger is not kept,
and that is told. Comments, processing instructions and blanks between elements are no data, and are left out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from lxml import etree

from shared.domain.findings import Finding, FindingKind

METADATA = "metadata"
MAX_METADATA_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Metadata:
    """The element ``<metadata>`` as text."""

    xml: str

    def element(self) -> etree._Element:
        """A new element of it."""
        return etree.fromstring(self.xml, etree.XMLParser(resolve_entities=False, no_network=True))


def read_metadata(root: etree._Element) -> tuple[Metadata | None, tuple[Finding, ...]]:
    """The metadata of a ``<domain>``, None if it has none that is kept."""
    elements = root.findall(METADATA)
    if not elements:
        return None, ()
    if len(elements) > 1:
        return None, (_not_kept(f"there are {len(elements)} of it"),)
    element = copy.deepcopy(elements[0])
    element.tail = None
    if any(not isinstance(part.tag, str) for part in element.iter()):
        return None, (_not_kept("it holds an entity"),)
    text = str(etree.tostring(element, encoding="unicode"))
    size_bytes = len(text.encode("utf-8", "surrogatepass"))
    if size_bytes > MAX_METADATA_BYTES:
        return None, (_not_kept(f"it has {size_bytes} bytes; at most {MAX_METADATA_BYTES} are carried"),)
    return (Metadata(text) if len(element) else None), ()


def _not_kept(why: str) -> Finding:
    return Finding("metadata_not_kept", FindingKind.NOT_KEPT, METADATA, f"not kept: {why}")
