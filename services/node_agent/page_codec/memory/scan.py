"""Elements of QEMU's stream as arrays: what the parser found in one piece of it. Pure; parses nothing.

Rows and not objects, because a guest of 4 GiB has a million records: one object for each costs more than its codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray


class Kind(IntEnum):
    """What an element of the stream is."""

    OPAQUE = 0
    ZERO = 1
    PAGE = 2
    DELTA = 3  # XBZRLE; only where they are asked for


class Mark(IntEnum):
    """A place between two elements that matters to who adds RAM records to the stream."""

    RECORDS_END = 0
    """Before the EOS of a section: the last place in it where records may stand."""
    LAST_SECTION = 1
    """Before the section END of `ram`: the guest is paused, and after this section there are no records."""
    PASSTHROUGH = 2
    """Before the first byte that is not understood; see `QemuStream.in_records`."""


@dataclass(frozen=True, slots=True)
class Block:
    """A RAM block. `first_page` numbers the pages of all blocks through."""

    name: bytes
    first_page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Scan:
    """Consecutive elements of the stream, n of them; every byte of `buffer[:end]` belongs to exactly one.

    Neighbours that are OPAQUE are one but for marks, and `part` joins those, too, so that a stream of many small ones
    becomes no longer by being described.
    `kinds` uint8; `starts` int64 is where an element begins, `bodies` where the bytes after a record's header do;
    `pages` int64 is a record's page over all blocks, -1 for OPAQUE; `named` are records that carry their block's name.
    `marks` tell in order which elements stand behind a place that matters, and why it does.
    """

    buffer: bytes
    end: int
    kinds: NDArray[np.uint8]
    starts: NDArray[np.int64]
    bodies: NDArray[np.int64]
    pages: NDArray[np.int64]
    named: NDArray[np.bool_]
    marks: tuple[tuple[int, Mark], ...] = ()

    def part(self, begin: int, end: int) -> Scan:
        """The elements from `begin` up to `end`, without marks."""
        is_opaque = self.kinds[begin:end] == Kind.OPAQUE
        goes_on = np.zeros(end - begin, dtype=np.bool_)
        goes_on[1:] = is_opaque[1:] & is_opaque[:-1]
        rows: slice | NDArray[np.int64] = begin + np.flatnonzero(~goes_on) if goes_on.any() else slice(begin, end)
        return Scan(
            buffer=self.buffer,
            end=int(self.starts[end]) if end < len(self.starts) else self.end,
            kinds=self.kinds[rows],
            starts=self.starts[rows],
            bodies=self.bodies[rows],
            pages=self.pages[rows],
            named=self.named[rows],
        )


class ScanBuilder:
    """Collects the elements of one scan: single ones in lists, runs of zero pages as arrays between them."""

    def __init__(self) -> None:
        # Kind, start, body, page, named: the columns of `Scan`.
        self._rows: list[tuple[int, int, int, int, bool]] = []
        self._parts: list[NDArray[np.int64]] = []
        self._closed = 0
        self._marks: list[tuple[int, Mark]] = []

    def mark(self, mark: Mark) -> None:
        """The next element stands behind such a place."""
        self._marks.append((self._closed + len(self._rows), mark))

    def opaque(self, at: int) -> None:
        here = self._closed + len(self._rows)
        # Opaque bytes after opaque bytes continue the same element, unless a mark stands between them.
        marked = bool(self._marks) and self._marks[-1][0] == here
        if marked or not self._rows or self._rows[-1][0] != Kind.OPAQUE:
            self._rows.append((Kind.OPAQUE, at, at, -1, False))

    def record(self, kind: Kind, at: int, body: int, page: int, *, named: bool) -> None:
        self._rows.append((kind, at, body, page, named))

    def run(self, kind: Kind, at: int, stride: int, pages: NDArray[np.int64]) -> None:
        self._close()
        part = np.zeros((len(pages), 5), dtype=np.int64)
        part[:, 0] = kind
        part[:, 1] = at + stride * np.arange(len(pages))
        # Records of a run do not repeat their block's name, so each header has 8 bytes.
        part[:, 2] = part[:, 1] + 8
        part[:, 3] = pages
        self._parts.append(part)
        self._closed += len(part)

    def scan(self, buffer: bytes, end: int) -> Scan:
        self._close()
        table = self._parts[0] if len(self._parts) == 1 else np.concatenate([_NO_ROWS, *self._parts])
        return Scan(
            buffer=buffer,
            end=end,
            kinds=table[:, 0].astype(np.uint8),
            starts=table[:, 1],
            bodies=table[:, 2],
            pages=table[:, 3],
            named=table[:, 4].astype(np.bool_),
            marks=tuple(self._marks),
        )

    def _close(self) -> None:
        if self._rows:
            self._parts.append(np.array(self._rows, dtype=np.int64))
            self._closed += len(self._rows)
            self._rows = []


_NO_ROWS: Final = np.empty((0, 5), dtype=np.int64)
