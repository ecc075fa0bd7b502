"""A domain definition as a value: a tree in which every element, attribute and text has found its row in the table.

Nothing is dropped or passed in silence. What no row speaks of, and a carried value that is not of its row's kind, is a
finding that blocks; what is bound to the host is a finding, too. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from lxml import etree

from shared.domain.blockers import change_of, code_for, is_empty_drive, whole_part_blockers
from shared.domain.findings import Finding, FindingKind
from shared.domain.metadata import METADATA, Metadata, read_metadata
from shared.domain.parsing import Domain, DomainSource, parse
from shared.domain.parts import part_name
from shared.domain.table import TABLE, Fate, Row, Table
from shared.domain.table.repeated import may_repeat
from shared.domain.table.rows import LAYER

NOT_KEPT = "not kept"
"""A note that begins so says that the recipient makes nothing in its place."""
MAX_BLOCKERS = 200
"""Listed of one definition; then it is not read on."""
MAX_HOST_BOUND = 1000
"""Told one by one of one definition, of what is bound to its host; of the others it is told how many there are."""
_SHOWN = 80
_DOMAIN = Row(".", Fate.ABI, None)
"""The domain itself is no part that could be absent, so that the table need not speak of it."""
_DISK = "devices/disk"
_OF_A_MEDIUM = frozenset(
    {
        f"{_DISK}@type",
        f"{_DISK}/driver@type",
        f"{_DISK}/source@file",
    }
)
"""Of a drive without a medium there is nothing to tell here: no file is made, and no contents come along."""
_ALIAS = re.compile(r"devices/[^/]+/alias")
_AS_IT_STANDS = frozenset({"line", "text", "name"})
_SHOWN_KINDS = frozenset({"number", "word", "words", "cpus", "unit"})


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute. `row` is None where no row speaks of it; then the definition has a finding that blocks."""

    name: str
    value: str
    row: Row | None


@dataclass(frozen=True, slots=True)
class Node:
    """One element; the same holds of its `row`. `path` is below ``<domain>``, ``.`` for the domain itself."""

    name: str
    path: str
    row: Row | None
    attributes: tuple[Attribute, ...]
    text: str
    children: tuple[Node, ...]

    @property
    def is_flag(self) -> bool:
        """Whether it says what it says by being there."""
        return not (self.attributes or self.children or self.text.strip())

    def get(self, name: str) -> str | None:
        """An attribute's value."""
        return next((each.value for each in self.attributes if each.name == name), None)


@dataclass(frozen=True)
class Definition:
    """One definition that was read. `domain` is the document itself: for looking up facts, never for passing on."""

    domain: Domain
    root: Node
    metadata: Metadata | None
    findings: tuple[Finding, ...]

    @cached_property
    def blockers(self) -> tuple[Finding, ...]:
        """Why it is not portable; empty if it is."""
        return tuple(finding for finding in self.findings if finding.kind is FindingKind.BLOCKS)


DefinitionSource = DomainSource | Definition
"""A definition, or the text or document of one."""


def read_definition(source: DefinitionSource, table: Table = TABLE) -> Definition:
    """Read a definition. Raises `DomainXmlError` only for a document that is malformed or too large."""
    if isinstance(source, Definition):
        return source
    domain = parse(source)
    if table is TABLE and isinstance(domain.reading, Definition):
        return domain.reading
    reader = _Reader(table)
    metadata, findings = read_metadata(domain.root)
    root = reader.read(domain.root, ".", _Told(part=""))
    found = tuple(dict.fromkeys((*reader.blocking, *reader.host_bound.values(), *reader.more(), *findings)))
    definition = Definition(domain, root, metadata, found)
    if table is TABLE:
        domain.reading = definition
    return definition


@dataclass(frozen=True, slots=True)
class _Told:
    """What need not be told again below an element: that it is refused, and that it is bound to its host."""

    part: str
    blocks: bool = False
    unknown: bool = False
    host: bool = False
    empty_drive: bool = False


@dataclass
class _Reader:
    table: Table
    blocking: list[Finding] = field(default_factory=list)
    host_bound: dict[tuple[str, str], Finding] = field(default_factory=dict)
    untold: set[tuple[str, str]] = field(default_factory=set)
    aliases: set[str] = field(default_factory=set)

    def read(self, element: etree._Element, path: str, told: _Told) -> Node:
        """The element and all below it. Of a refused part one reason is told, the first."""
        text = element.text or ""
        row = _DOMAIN if path == "." else self._row(path, text.strip(), told)
        if part := part_name(element, path):
            told = replace(told, part=part, empty_drive=path == _DISK and is_empty_drive(element))
        if path == "seclabel" and element.get("model") == "none":
            told = replace(told, host=True)  # so libvirt writes where its host has no labels at all
        for code, detail in () if told.blocks else whole_part_blockers(element, path):
            self._block(code, told, detail)
            told = replace(told, blocks=True)
        if change := change_of(element, path):
            self.host_bound[(told.part, change)] = Finding("host_bound", FindingKind.MADE_ANEW, told.part, change)
        if not _is_frame(element, row, text):
            told = self._judge(path, row, text, told, is_element=True)
        self._own_alias(element, path, told)
        attributes = []
        for name, value in element.attrib.items():
            attribute = Attribute(str(name), str(value), self._row(f"{path}@{name!s}", str(value), told))
            seen = self._judge(f"{path}@{name!s}", attribute.row, attribute.value, told, is_element=False)
            told = seen if seen.blocks != told.blocks else told
            attributes.append(attribute)
        return Node(str(element.tag), path, row, tuple(attributes), text, tuple(self._below(element, path, told)))

    def _below(self, element: etree._Element, path: str, told: _Told) -> Iterator[Node]:
        seen: set[str] = set()
        for child in element:
            tag = str(child.tag)
            self._once(tag, _path_of(child, path), seen, told)
            if (child.tail or "").strip():
                self._block("stray_text", told, f"there is text after <{tag[:_SHOWN]}>, where no text belongs")
            if path == "." and tag == METADATA:
                continue
            yield self.read(child, _path_of(child, path), told)

    def _once(self, tag: str, path: str, seen: set[str], told: _Told) -> None:
        """Refuse what stands again where one is looked up; of what is bound to its host as a whole nothing is."""
        if tag in seen and not may_repeat(path):
            row = self.table.find(path)
            if row is not None and not row.whole:
                self._block("twice", told, f"{_shown(path)} is there twice, so nobody can say which counts")
        seen.add(tag)

    def _own_alias(self, element: etree._Element, path: str, told: _Told) -> None:
        """Two devices cannot have one alias of their owner; libvirt refuses it, later."""
        name = element.get("name") or ""
        if _ALIAS.fullmatch(path) and name.startswith("ua-"):
            if name in self.aliases:
                self._block("twice", told, f"the alias {name[:_SHOWN]} is that of another device, too")
            self.aliases.add(name)

    def _row(self, path: str, value: str, told: _Told) -> Row | None:
        # What is in an unknown part is unknown, too. Where very much is wrong, nothing more is looked up.
        if told.unknown or len(self.blocking) >= MAX_BLOCKERS:
            return None
        return self.table.find(path, value)

    def _judge(self, path: str, row: Row | None, value: str, told: _Told, *, is_element: bool) -> _Told:
        """Note what is to be said of one element or attribute; return what need not be said again below it."""
        if row is None:
            self._block("unknown_part", told, f"{_shown(path)} is not known, so nobody can say what it would do")
            return replace(told, blocks=True, unknown=is_element)
        if row.fate is Fate.REFUSED:
            self._block(code_for(path), told, f"{row.note} ({_shown(path)})")
            return replace(told, blocks=True)
        if row.fate is Fate.HOST:
            if not told.host and (value.strip() or row.kind is None or row.whole):
                self._tell_host(path, row, value, told)
                return replace(told, host=told.host or row.whole)
        elif row.fate is not Fate.LIVE:
            self._check_value(path, row, value, told, is_element=is_element)
        return told

    def _check_value(self, path: str, row: Row, value: str, told: _Told, *, is_element: bool) -> None:
        written = carried_text(row, value) if is_element else value
        if is_element and not written:
            return
        if row.kind is None:
            self._block("stray_text", told, f"{_shown(path)} has text, where no text belongs")
        elif not row.kind.accepts(written):
            shown = f"of {len(written)} characters" if row.kind.name in _AS_IT_STANDS else repr(written[:_SHOWN])
            self._block("value_not_carried", told, f"{_shown(path)} is {shown}, not {row.kind.meaning}")

    def _tell_host(self, path: str, row: Row, value: str, told: _Told) -> None:
        """Once for all parts of a device that go the same way; the one with a value that may be shown says it."""
        if told.empty_drive and path in _OF_A_MEDIUM:
            return
        kind = FindingKind.NOT_KEPT if row.note.lower().startswith(NOT_KEPT) else FindingKind.MADE_ANEW
        written = value.strip()
        # A file, a socket and a password are not shown; nor is what is not of its kind.
        showable = row.kind is not None and row.kind.name in _SHOWN_KINDS and row.kind.accepts(written)
        was = f"was {written[:_SHOWN]}" if showable and written else ""
        part = told.part or _shown(path)
        words = (_within_device(path) if told.part else "", was)
        subject = " ".join(word for word in words if word)
        key = part, row.note
        if key not in self.host_bound and len(self.host_bound) >= MAX_HOST_BOUND:
            self.untold.add(key)
        elif key not in self.host_bound or (was and "was " not in self.host_bound[key].detail):
            detail = f"{subject}: {row.note}" if subject else row.note
            self.host_bound[key] = Finding("host_bound", kind, part, detail)

    def more(self) -> Iterator[Finding]:
        """How many host-bound parts are not told one by one, as the worse that may become of them."""
        if self.untold:
            detail = f"not kept, or made again: and {len(self.untold)} more parts that are bound to the host"
            yield Finding("host_bound", FindingKind.NOT_KEPT, "definition", detail)

    def _block(self, code: str, told: _Told, detail: str) -> None:
        if not told.blocks and len(self.blocking) < MAX_BLOCKERS:
            self.blocking.append(Finding(code, FindingKind.BLOCKS, told.part or "definition", detail))


def _is_frame(element: etree._Element, row: Row | None, text: str) -> bool:
    """Whether a host-bound element is there only for what is in it, which says for itself what becomes of it."""
    is_bound = row is not None and row.fate is Fate.HOST and row.kind is None and not row.whole
    return is_bound and len(element) > 0 and not element.attrib and not text.strip()


def carried_text(row: Row, text: str) -> str:
    """An element's text as it is carried: as it stands where blanks may mean something, else without them."""
    stands = row.kind is not None and row.kind.name in _AS_IT_STANDS
    return text if stands and text.strip() else text.strip()


def _path_of(child: etree._Element, above: str) -> str:
    """A layer beneath a layer has the same path."""
    tag = str(child.tag)
    if above == ".":
        return tag
    return above if tag == LAYER and above.endswith(f"/{tag}") else f"{above}/{tag}"


def _within_device(path: str) -> str:
    """``devices/disk/source@file`` is the source file of a disk."""
    element, _, attribute = path.partition("@")
    return " ".join((*element.split("/")[2:], *([attribute] if attribute else ())))


def _shown(path: str) -> str:
    return path[-4 * _SHOWN :].removeprefix("devices/")
