"""Reads domain XML, once: bounded, without entities, DTD or network. What is read is passed on as a `Domain`.

A live XML is foreign input: it comes from a hypervisor that a tenant's guest runs on, or from another provider.
"""

from __future__ import annotations

import copy
import re

from lxml import etree

from shared.domain.errors import DomainXmlError

MAX_XML_BYTES = 1_000_000
"""A larger document is refused before it is parsed. libvirt's own XML of a large VM has some 50 KiB.

Not more than a message holds in characters, so that what was read can also be sent.
"""

UNIT_BYTES = {
    "b": 1,
    "bytes": 1,
    "kb": 1000,
    "k": 1024,
    "kib": 1024,
    "mb": 1000**2,
    "m": 1024**2,
    "mib": 1024**2,
    "gb": 1000**3,
    "g": 1024**3,
    "gib": 1024**3,
    "tb": 1000**4,
    "t": 1024**4,
    "tib": 1024**4,
}
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")


class Domain:
    """One ``<domain>`` document that was read. It is never changed: to change a document, work on `tree_copy`."""

    def __init__(self, root: etree._Element) -> None:
        self.root = root
        """For reading only: all users of this value share it."""
        self.reading: object = None
        """What `definition` has made of it, so that it is read once, however many steps it is passed to."""

    def tree_copy(self) -> etree._Element:
        """The document, for changing."""
        return copy.deepcopy(self.root)

    def to_text(self) -> str:
        """The document as indented XML, with a newline at its end."""
        root = self.tree_copy()
        etree.indent(root)
        return str(etree.tostring(root, encoding="unicode")) + "\n"


DomainSource = str | bytes | Domain
"""Domain XML as text, or as it was read before. Reading twice costs time, so pass on a `Domain` where there is one."""


def parse(xml: DomainSource) -> Domain:
    """Read a domain XML; a `Domain` is returned as it is. Raises `DomainXmlError`, also above `MAX_XML_BYTES`."""
    if isinstance(xml, Domain):
        return xml
    try:
        raw = xml.encode() if isinstance(xml, str) else xml
    except UnicodeEncodeError as error:
        raise DomainXmlError(f"no text: {error}") from error
    if len(raw) > MAX_XML_BYTES:
        raise DomainXmlError(f"{len(raw)} bytes, more than {MAX_XML_BYTES}")
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        remove_blank_text=True,
    )
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise DomainXmlError(f"not well-formed: {error}") from error
    # The parser is asked, since the same characters are harmless text in metadata.
    if root.getroottree().docinfo.internalDTD is not None:
        raise DomainXmlError("a document type declaration is not accepted")
    if root.tag != "domain":
        raise DomainXmlError(f"the document is a <{root.tag}>")
    return Domain(root)


def text_of(root: etree._Element, path: str) -> str | None:
    """The stripped text of the element at this path; None where there is none, or it is empty."""
    text = root.findtext(path)
    return text.strip() or None if text else None


def attribute_of(root: etree._Element, path: str, name: str) -> str | None:
    """An attribute of the element at this path; None where there is none, or it is empty."""
    element = root.find(path)
    return (element.get(name) or None) if element is not None else None


def required_text(root: etree._Element, path: str) -> str:
    """The same, where every VM has one; raises `DomainXmlError`."""
    text = text_of(root, path)
    if text is None:
        raise DomainXmlError("missing or empty", element=path)
    return text


def whole_number(text: str, element: str) -> int:
    """A number of at most 18 digits; raises `DomainXmlError` that names the element."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise DomainXmlError(f"{text[:40]!r} is not a number", element=element)
    return int(text)


def size_bytes(root: etree._Element, path: str) -> int:
    """A size with its unit (libvirt's default: KiB), in bytes; raises `DomainXmlError`."""
    amount = whole_number(required_text(root, path), path)
    unit = (root.find(path).get("unit") or "KiB").lower()  # type: ignore[union-attr]  # required_text found it
    if unit not in UNIT_BYTES:
        raise DomainXmlError(f"unknown unit {unit!r}", element=path)
    return amount * UNIT_BYTES[unit]


def mac_of(nic: etree._Element) -> str:
    """The MAC address of an ``<interface>``, in lower case; raises `DomainXmlError`."""
    element = nic.find("mac")
    address = (element.get("address") if element is not None else None) or ""
    if not _MAC.match(address.lower()):
        raise DomainXmlError(f"{address!r} is not a MAC address", element="interface")
    return address.lower()


def target_of(disk: etree._Element) -> str:
    """The target device of a ``<disk>``, such as ``vda``; raises `DomainXmlError`."""
    target = disk.find("target")
    name = target.get("dev") if target is not None else None
    if not name:
        raise DomainXmlError("no target device", element="disk")
    return name


def name_of(root: etree._Element) -> str:
    """The VM's name as it stands: blanks at its ends are part of it. Raises `DomainXmlError`."""
    name = root.findtext("name")
    if not name or not name.strip():
        raise DomainXmlError("missing or empty", element="name")
    return name


def source_of(disk: etree._Element) -> str | None:
    """The path of a ``<disk>`` at its host; None for an empty drive, and for what is no file or block device."""
    source = disk.find("source")
    if source is None:
        return None
    return source.get("file") or source.get("dev") or None
