"""The rows of the table: their grammar, and how the row of an element or an attribute is found. Pure.

A row is one line::

    devices/disk/target@bus     abi      word
    vcpu@cpuset                 host     cpus     the recipient chooses the CPUs
    devices/hostdev/**          refused  -        a host device is passed through

It has the path below ``<domain>`` (``/`` before a child element, ``@`` before an attribute, ``.`` for the domain
itself), the fate, the kind of the value (`values`; ``-`` for an element without text) and, to its end, a note in plain
English: for a host-bound part what the recipient makes of it, for a refused one the reason.

A path may end in ``=`` and values: the row then speaks of these values only, and counts before the one without::

    devices/disk@device         abi      =disk|cdrom|floppy
    devices/disk@device=lun     refused  any      a SCSI device of the host is passed through
    devices/*/alias@name=ua-*   lasting  alias

``a|b`` are two values, ``ua-*`` stands for all that begin so, and nothing behind the ``=`` for an empty value.
`Table.find` looks at them where it is given a value.

``*`` stands for any one name. ``**`` at the end stands for the element before it and all that is in it, at any depth;
it is for what is refused, host-bound or live as a whole, and for metadata, which is data. ``{http://…}name`` is a name
in a namespace. Of several rows that match, the one counts that names most: a literal name before ``*``, both before
``**``. A backing store in a backing store, at any depth, counts as one.

A kind says what the text of an element may be. It does not say that there is one: an element may be empty.

Lines that begin with ``#``, and empty ones, do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from shared.domain.table.values import Kind, kind_of
from shared.errors import VmportError


class Fate(StrEnum):
    """What happens to a part of the definition."""

    ABI = "abi"
    """The guest sees it: kept bit for bit, and compared."""
    LASTING = "lasting"
    """Kept in the definition; the guest does not see it, so it is not compared."""
    HOST = "host"
    """Bound to its host: the recipient makes its own, or cannot give it. It is told."""
    LIVE = "live"
    """Changes while the guest runs, or is libvirt's own note of the moment: neither kept nor compared, nor told."""
    REFUSED = "refused"
    """Not portable: a VM that has it is refused by name."""


class TableError(VmportError):
    """A row that is none, or two rows that contradict each other."""

    code = "domain_table"


@dataclass(frozen=True, slots=True)
class Row:
    """What happens to one part."""

    path: str
    fate: Fate
    kind: Kind | None
    """None for an element without text."""
    note: str = ""
    values: tuple[str, ...] = ()
    """The values that it speaks of, ``ua-*`` for all that begin so; empty where it speaks of all."""

    @property
    def whole(self) -> bool:
        """Whether it speaks of all that is in the element, too."""
        return self.path.endswith("/**")


MAX_KNOWN = 4096
"""Paths whose rows are remembered: a definition asks for the same few again and again."""
LAYER = "backingStore"
"""The one element that stands in itself."""
_OPAQUE = "metadata/**"
"""Carried as a whole: data of management software, which libvirt keeps and does not read."""
_SEGMENT = r"(?:\{[^}]*\})?(?:[A-Za-z_][A-Za-z0-9_.-]*|\*)"
_PATH = re.compile(rf"(?:\.|{_SEGMENT}(?:/{_SEGMENT})*(?:/\*\*)?)?(?:@{_SEGMENT})?")


def read_rows(text: str) -> tuple[Row, ...]:
    """The rows of a table that is written in lines. Raises `TableError`."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(_row(line) for line in lines if line and not line.startswith("#"))


def _row(line: str) -> Row:
    parts = line.split(None, 3)
    if len(parts) < 3:
        raise TableError(f"{line!r}: path, fate and kind are needed")
    path, fate, kind_name = parts[:3]
    note = parts[3] if len(parts) > 3 else ""
    if fate not in set(Fate):
        raise TableError(f"{line!r}: no such fate: {fate}")
    kind = kind_of(kind_name)
    if kind is None and kind_name != "-":
        raise TableError(f"{line!r}: no such kind of value: {kind_name}")
    path, equals, values = _split_values(path)
    row = Row(path, Fate(fate), kind, note, tuple(values.split("|")) if equals else ())
    if not path or _PATH.fullmatch(path) is None:
        raise TableError(f"{line!r}: no such path")
    _check(row, line)
    return row


def _split_values(path: str) -> tuple[str, str, str]:
    """A path, and the values behind its ``=``; a namespace may hold one, too."""
    end = path.rfind("}") + 1
    head, equals, values = path[end:].partition("=")
    return path[:end] + head, equals, values


def _check(row: Row, line: str) -> None:
    carried = row.fate in {Fate.ABI, Fate.LASTING}
    if carried and row.whole and row.path != _OPAQUE:
        raise TableError(f"{line!r}: what is carried is named, one by one")
    if carried and row.kind is not None and not row.kind.carried:
        raise TableError(f"{line!r}: a value of this kind never leaves its host")
    if "@" in row.path and row.kind is None:
        raise TableError(f"{line!r}: an attribute has a value")
    if row.fate in {Fate.HOST, Fate.REFUSED} and not row.note:
        raise TableError(f"{line!r}: what does the recipient make of it, or why is it refused?")


class Table:
    """Finds the row of a path, in time that does not grow with the number of rows nor with what the path holds."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = tuple(rows)
        self._root = _Element()
        self._known: dict[str, tuple[tuple[Row, ...], Row | None]] = {}
        for row in self._rows:
            self._add(row)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def find(self, path: str, value: str | None = None) -> Row | None:
        """The row of an element or attribute, such as ``devices/disk@type``; None where no row speaks of it.

        With the `value` that stands there, a row for this value counts before one for all values.
        """
        known = self._known.get(path)
        if known is None:
            known = self._of_path(path)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[path] = known
        by_value, otherwise = known
        if value is not None:
            for row in by_value:
                if any(_matches(value, pattern) for pattern in row.values):
                    return row
        return otherwise

    def _of_path(self, path: str) -> tuple[tuple[Row, ...], Row | None]:
        """The rows of a path that speak of some values, and the one for all others."""
        names, attribute = split_path(path)
        elements, whole = self._elements(_once(names))
        by_value = tuple(row for element in elements for row in element.rows.get(attribute, ()) if row.values)
        return by_value, _row_of_all(elements, attribute) or whole

    def _add(self, row: Row) -> None:
        names, attribute = split_path(row.path.removesuffix("/**"))
        element = self._root
        for name in names:
            element = element.children.setdefault(name, _Element())
        key = "/**" if row.whole else attribute
        others = element.rows.setdefault(key, [])
        for other in others:
            if set(other.values) & set(row.values) or (not other.values and not row.values):
                raise TableError(f"{row.path}: two rows")
        others.append(row)

    def _elements(self, names: tuple[str, ...]) -> tuple[list[_Element], Row | None]:
        """The elements of the table that stand for these names, most literal first; and the row of what is around."""
        whole: Row | None = None
        at = [(0, self._root)]
        for name in names:
            found = [(stars, element.children.get(name)) for stars, element in at]
            found += [(stars + 1, element.children.get("*")) for stars, element in at]
            at = sorted(((stars, element) for stars, element in found if element is not None), key=lambda pair: pair[0])
            if not at:
                break
            whole = next((element.rows["/**"][0] for _, element in at if "/**" in element.rows), whole)
        return [element for _, element in at], whole


@dataclass(slots=True)
class _Element:
    """What the table says of one element: rows by attribute (``""`` for the element, ``/**`` for all of it)."""

    children: dict[str, _Element] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)


def _row_of_all(elements: Iterable[_Element], attribute: str) -> Row | None:
    names = (attribute, "*") if attribute else ("",)
    rows = (row for element in elements for name in names for row in element.rows.get(name, ()))
    return next((row for row in rows if not row.values), None)


def _matches(value: str, pattern: str) -> bool:
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


_NAME = re.compile(r"(?:\{[^}]*\}|[^/{])+")
_ELEMENT_AND_ATTRIBUTE = re.compile(r"((?:\{[^}]*\}|[^@{])*)(?:@(.*))?", re.DOTALL)


def split_path(path: str) -> tuple[tuple[str, ...], str]:
    """The names of the elements in a path, and its attribute or ``""``; a namespace may hold ``/`` and ``@``."""
    match = _ELEMENT_AND_ATTRIBUTE.fullmatch(path)
    if match is None:
        return (path,), ""
    return tuple(_NAME.findall(match[1])), match[2] or ""


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Without the layers that lie in a layer."""
    return tuple(name for i, name in enumerate(names) if name != LAYER or i == 0 or names[i - 1] != LAYER)
