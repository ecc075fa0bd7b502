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

``a|b`` are two values, and ``ua-*`` stands for all that begin so. `Table.find` looks at them where it is given a value.

``*`` stands for any one name. ``**`` at the end stands for the element before it and all that is in it, at any depth;
it is for what is refused, host-bound or live as a whole, and for metadata, which is data. ``{http://…}name`` is a name
in a namespace. Of several rows that match, the one counts that names most: a literal name before ``*``, both before
``**``. An element in one of its own name, such as a backing store in a backing store, counts as one.

An element without text is of the kind of its text, too: a kind says what a text may be, not that there is one.

Lines that begin with ``#``, and empty ones, do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    """Bound to its host: the recipient makes it anew, or cannot give it. It is told."""
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


_SEGMENT = r"(?:\{[^}]*\})?(?:[A-Za-z_][A-Za-z0-9_.-]*|\*)"
_OPAQUE = "metadata/**"
"""Carried as a whole: data of management software, which libvirt keeps and does not read."""
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
    path, _, values = _split_values(path)
    row = Row(path, Fate(fate), kind, note, tuple(values.split("|")) if values else ())
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
        raise TableError(f"{line!r}: what is made anew, or why it is refused?")


class Table:
    """Finds the row of a path."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[str, Row] = {}
        self._by_value: dict[str, list[Row]] = {}
        self._all: list[Row] = []
        for row in rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        self._all.append(row)
        if not row.values:
            if row.path in self._rows:
                raise TableError(f"{row.path}: two rows")
            self._rows[row.path] = row
            return
        others = self._by_value.setdefault(row.path, [])
        twice = {value for other in others for value in other.values}.intersection(row.values)
        if twice:
            raise TableError(f"{row.path}={min(twice)}: two rows")
        others.append(row)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._all)

    def find(self, path: str, value: str | None = None) -> Row | None:
        """The row of an element or attribute, such as ``devices/disk@type``; None where no row speaks of it.

        With the `value` that stands there, a row for this value counts before one for all values.
        """
        names, attribute = split_path(path)
        segments = _once(names)
        suffix = f"@{attribute}" if attribute else ""
        if value is not None:
            row = self._of_value(segments, suffix, value)
            if row is not None:
                return row
        return self._by_star(segments, suffix) or self._by_whole(segments)

    def _of_value(self, segments: tuple[str, ...], suffix: str, value: str) -> Row | None:
        if not self._by_value:
            return None
        rows = (row for pattern in _patterns(segments) for row in self._by_value.get(pattern + suffix, ()))
        return next((row for row in rows if any(_matches(value, pattern) for pattern in row.values)), None)

    def _by_star(self, segments: tuple[str, ...], suffix: str) -> Row | None:
        suffixes = (suffix, "@*") if suffix else ("",)
        candidates = [pattern + end for pattern in _patterns(segments) for end in suffixes]
        return _first(self._rows, candidates)

    def _by_whole(self, segments: tuple[str, ...]) -> Row | None:
        for length in range(len(segments), 0, -1):
            row = _first(self._rows, [f"{pattern}/**" for pattern in _patterns(segments[:length])])
            if row is not None:
                return row
        return None


_NAME = re.compile(r"(?:\{[^}]*\}|[^/{])+")
_ELEMENT_AND_ATTRIBUTE = re.compile(r"((?:\{[^}]*\}|[^@{])*)(?:@(.*))?", re.DOTALL)


def split_path(path: str) -> tuple[tuple[str, ...], str]:
    """The names of the elements in a path, and its attribute or ``""``; a namespace may hold ``/`` and ``@``."""
    match = _ELEMENT_AND_ATTRIBUTE.fullmatch(path)
    if match is None:
        return (path,), ""
    return tuple(_NAME.findall(match[1])), match[2] or ""


def _once(segments: tuple[str, ...]) -> tuple[str, ...]:
    """Without the names that repeat the one before."""
    return tuple(name for i, name in enumerate(segments) if i == 0 or name != segments[i - 1])


def _matches(value: str, pattern: str) -> bool:
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def _first(rows: Mapping[str, Row], paths: Iterable[str]) -> Row | None:
    return next((rows[path] for path in paths if path in rows), None)


def _patterns(segments: tuple[str, ...]) -> list[str]:
    """The path itself, then with one ``*``, then with two; more than two in one path are not searched for."""
    singles = ((i,) for i in range(len(segments)))
    pairs = ((i, j) for i in range(len(segments)) for j in range(i + 1, len(segments)))
    stars: Iterable[tuple[int, ...]] = ((), *singles, *pairs)
    return ["/".join("*" if k in at else name for k, name in enumerate(segments)) for at in stars]
