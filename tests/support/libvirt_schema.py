"""Walks libvirt's RELAX NG schema of a domain: every path of an element or attribute that a definition may have.

Paths are written as in `shared.domain.table`: ``devices/disk@type``, ``.@id``, ``{namespace}name`` for a name of
another namespace, ``*`` for any name. An element that stands in one of its own name (a backing store in a backing
store) is followed to the second level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
"""The schema as libvirt's package installs it."""

_RNG = "{http://relaxng.org/ns/structure/1.0}"
_NAMES = frozenset({"name", "anyName", "nsName"})
_TRANSPARENT = frozenset({"group", "choice", "interleave", "optional", "zeroOrMore", "oneOrMore", "mixed", "div"})


@dataclass
class SchemaPart:
    """What the schema says of one path. `words` are values it enumerates, `types` the data types it names.

    `patterns` are the names of the schema's own definitions that are used there, such as ``absFilePath``.
    """

    words: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)

    @property
    def has_text(self) -> bool:
        """Whether a value may stand there."""
        return bool(self.words or self.types)

    @property
    def only_words(self) -> bool:
        """Whether the enumerated values are all that may stand there."""
        return bool(self.words) and not self.types


def schema_parts(schema: Path = SCHEMA) -> dict[str, SchemaPart]:
    """Every path below ``<domain>``, with what may stand there."""
    return _Walker(schema).walk()


@dataclass(frozen=True)
class _Frame:
    """Where the walk stands: the names of the elements around, and the attribute or ``""``."""

    names: tuple[str, ...]
    attribute: str = ""

    @property
    def path(self) -> str:
        return ("/".join(self.names) or ".") + (f"@{self.attribute}" if self.attribute else "")


class _Walker:
    def __init__(self, schema: Path) -> None:
        self._defines: dict[str, list[etree._Element]] = {}
        self._loaded: set[Path] = set()
        self._parts: dict[str, SchemaPart] = {}
        self._seen: set[tuple[etree._Element, _Frame]] = set()
        self._load(schema)

    def walk(self) -> dict[str, SchemaPart]:
        for define in self._defines["domain"]:
            for element in define.iter(f"{_RNG}element"):
                if element.get("name") == "domain":
                    self._content(element, _Frame(()))
                    return self._parts
        raise ValueError("the schema defines no domain")

    def _load(self, file: Path) -> None:
        if file in self._loaded:
            return
        self._loaded.add(file)
        root = etree.parse(str(file)).getroot()
        # A definition of the including grammar comes before one of the same name that it includes.
        for node in root.iter(f"{_RNG}define"):
            self._defines.setdefault(str(node.get("name")), []).append(node)
        for node in root.iter(f"{_RNG}include"):
            self._load(file.parent / str(node.get("href")))

    def _content(self, node: etree._Element, frame: _Frame) -> None:
        for child in node:
            if isinstance(child.tag, str):
                self._visit(child, frame)

    def _visit(self, node: etree._Element, frame: _Frame) -> None:
        tag = str(node.tag).removeprefix(_RNG)
        if tag == "element":
            self._element(node, frame)
        elif tag == "attribute":
            self._attribute(node, frame)
        elif tag == "ref":
            self._reference(str(node.get("name")), frame)
        elif tag in _TRANSPARENT:
            if tag == "mixed":
                self._part(frame).types.add("text")
            self._content(node, frame)
        elif tag == "list":
            self._part(frame).types.add("list")
        elif tag == "value":
            self._part(frame).words.add((node.text or "").strip())
        elif tag == "data":
            self._part(frame).types.add(str(node.get("type")))
        elif tag == "text":
            self._part(frame).types.add("text")
        elif tag not in _NAMES | {"empty", "notAllowed", "param"}:
            raise ValueError(f"the schema has a {tag}, which this walk does not know")

    def _reference(self, name: str, frame: _Frame) -> None:
        if frame.names or frame.attribute:
            self._part(frame).patterns.add(name)
        for define in self._defines[name]:
            if (define, frame) not in self._seen:
                self._seen.add((define, frame))
                self._content(define, frame)

    def _part(self, frame: _Frame) -> SchemaPart:
        return self._parts.setdefault(frame.path, SchemaPart())

    def _element(self, node: etree._Element, frame: _Frame) -> None:
        for name in self._names(node):
            if frame.names.count(name) >= 2 or (name == "*" and frame.names[-1:] == ("*",)):
                continue
            inner = _Frame((*frame.names, name))
            self._part(inner)
            if (node, inner) not in self._seen:
                self._seen.add((node, inner))
                self._content(node, inner)

    def _attribute(self, node: etree._Element, frame: _Frame) -> None:
        for name in self._names(node):
            inner = _Frame(frame.names, name)
            part = self._part(inner)
            self._content(node, inner)
            if not part.has_text:
                # An attribute without a pattern may hold any text.
                part.types.add("text")

    def _names(self, node: etree._Element) -> Iterator[str]:
        name = node.get("name")
        space = _namespace(node) if str(node.tag) == f"{_RNG}element" else str(node.get("ns", ""))
        if name is not None:
            yield _qualified(name, space)
            return
        for choice in node.iter(f"{_RNG}name", f"{_RNG}anyName", f"{_RNG}nsName"):
            if _owner(choice) is not node:
                continue
            if choice.tag == f"{_RNG}name":
                yield _qualified((choice.text or "").strip(), space)
            else:
                yield "*"


def _qualified(name: str, space: str) -> str:
    return f"{{{space}}}{name}" if space else name


def _namespace(node: etree._Element) -> str:
    """The namespace that a pattern gives to its element: the nearest ``ns``."""
    at: etree._Element | None = node
    while at is not None:
        if at.get("ns") is not None:
            return str(at.get("ns"))
        at = at.getparent()
    return ""


def _owner(choice: etree._Element) -> etree._Element | None:
    """The element or attribute pattern that a name class belongs to; None below an ``except``."""
    at = choice.getparent()
    while at is not None and at.tag not in {f"{_RNG}element", f"{_RNG}attribute"}:
        if at.tag == f"{_RNG}except":
            return None
        at = at.getparent()
    return at
