"""One batch of the memory stream as it is built: what is sent for each element of a scan. Pure. See `format`.

Of each page goes, in this order of preference: nothing, if the recipient's guest memory holds this very content at this
place; a reference, if the recipient's store holds it; a delta to what was sent last, if a copy of that was kept; all
4096 bytes. Of two versions of a page within a batch only the newer goes. A hot page for which a delta or all bytes
would go may wait instead (`held_pages`); where nothing or a reference goes, that is as good as waiting. The last record
of a batch that changes to another block always goes: what passes unread later may continue that block (CONTINUE), for
post-copy does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.node_agent.page_codec.batch import Bytes, Column
from services.node_agent.page_codec.contents import CONTENT_BYTES, UNKNOWN, Codes, ContentIndex, Origin, Pages
from services.node_agent.page_codec.memory import xbzrle
from services.node_agent.page_codec.memory.format import NAMED, MemoryColumn, MemoryKind
from services.node_agent.page_codec.memory.held_pages import HeldPages
from services.node_agent.page_codec.memory.incompressible import is_incompressible
from services.node_agent.page_codec.memory.scan import Block, Kind, Scan
from services.node_agent.page_codec.memory.sent_pages import UNNUMBERED, ZERO, PageNumbers, SentPages

DELTA_LIMIT_BYTES: Final = 3072
"""A delta longer than this goes as a page: that gets a number."""

_RECORD_BYTES: Final = 8 + CONTENT_BYTES
Number = TypeVar("Number", np.int64, np.uint32)
_AS_SENT: Final = np.array([MemoryKind.OPAQUE, MemoryKind.ZERO, MemoryKind.LITERAL], dtype=np.uint8)
"""By the parser's kind."""
# numpy converts an enum's member at each comparison: that costs more than twice as much as with a uint8.
_OPAQUE, _REFERENCE = np.uint8(MemoryKind.OPAQUE), np.uint8(MemoryKind.REFERENCE)
_IS_ZERO, _IS_PAGE = np.uint8(Kind.ZERO), np.uint8(Kind.PAGE)


@dataclass(slots=True)
class MemoryState:
    """What runs on from batch to batch. `index` is None without dedup, `held` where no page ever waits."""

    index: ContentIndex | None
    sent: SentPages
    blocks: list[Block]
    keeper: Callable[[Pages], None] | None = None
    held: HeldPages | None = None
    last_page: int = 0
    last_code: int = 0
    last_block: int = -1
    tally: Counter[str] = field(default_factory=Counter)


class MemoryBatch:
    """One batch; its arrays have one entry per element of the scan. `columns` once. With `hold` hot pages may wait."""

    def __init__(self, state: MemoryState, scan: Scan, *, hold: bool = False) -> None:
        self._state = state
        self._scan = scan
        self._hold = state.held if hold else None
        self._kinds = _AS_SENT[scan.kinds]
        self._codes: Codes = np.zeros(len(scan.kinds), dtype=np.uint32)
        self._gone = np.zeros(len(scan.kinds), dtype=np.bool_)
        self._firsts = np.array([block.first_page for block in state.blocks], dtype=np.int64)
        self._blocks = np.searchsorted(self._firsts, scan.pages, side="right") - 1  # -1 for OPAQUE
        self._must_go = self._find_must_go()
        self._sizes: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._deltas = b""
        self._hot = self._waits = np.empty(0, dtype=np.bool_)
        self._literals = self._incompressible = memoryview(b"")

    def columns(self) -> list[Column]:
        """What to send; changes the state accordingly."""
        if self._hold is not None:
            self._hold.observe_order(self._scan.pages[self._scan.pages >= 0])
        self._drop_older_versions()
        held = self._state.held
        if held is not None and len(held):
            self._tally("held", held.discard(self._scan.pages[(self._scan.pages >= 0) & ~self._gone]))
        zeros = np.flatnonzero((self._scan.kinds == _IS_ZERO) & ~self._gone)
        if len(zeros):
            self._add_zeros(zeros)
        pages = np.flatnonzero((self._scan.kinds == _IS_PAGE) & ~self._gone)
        if len(pages):
            self._add_pages(pages)
        return self._pack()

    # ---- what goes ----

    def _find_must_go(self) -> int:
        """The row that tells the recipient's QEMU at which block the stream stands; -1 if it stayed at one."""
        records = np.flatnonzero(self._scan.pages >= 0)
        if not len(records) or (self._blocks[records] == self._state.last_block).all():
            return -1
        return int(records[-1])

    def _drop_older_versions(self) -> None:
        records = np.flatnonzero(self._scan.pages >= 0)
        pages = self._scan.pages[records]
        if (pages[1:] > pages[:-1]).all():  # as within a round
            return
        unique, newest = np.unique(pages[::-1], return_index=True)
        if len(unique) < len(records):
            older = np.ones(len(records), dtype=np.bool_)
            older[len(records) - 1 - newest] = False
            self._drop(records[older], "superseded")

    def _add_zeros(self, rows: PageNumbers) -> None:
        sent, pages = self._state.sent, self._scan.pages[rows]
        known = (sent.codes(pages) == ZERO) & (rows != self._must_go)
        self._drop(rows[known], "unchanged")
        sent.forget(pages[~known], ZERO)
        self._tally("zero", int((~known).sum()))

    def _add_pages(self, rows: PageNumbers) -> None:
        sent, index, pages = self._state.sent, self._state.index, self._scan.pages[rows]
        contents = _gather(self._scan.buffer, self._scan.bodies[rows])
        before = sent.codes(pages)
        ids = index.ids(contents.reshape(-1).data) if index is not None else []
        # find(), not place(): what waits or goes as a delta must get no number, since the recipient never stores it.
        codes = index.find(ids) if index is not None else np.full(len(rows), UNKNOWN, dtype=np.uint32)
        found = codes != UNKNOWN
        same = found & (codes == before) & (rows != self._must_go)
        self._kinds[rows[found]] = MemoryKind.REFERENCE
        self._waits = np.zeros(len(rows), dtype=np.bool_)
        self._hot = np.zeros(len(rows), dtype=np.bool_)
        if self._hold is not None:
            self._hot = self._hold.count_resent(pages) & (rows != self._must_go)
        left = self._add_deltas(rows, contents, codes, np.flatnonzero(~found))
        if (waiting := self._hold_back(pages, contents, left, np.full(len(left), CONTENT_BYTES))) is not None:
            left = left[~waiting]
        if index is not None:
            codes[left], fresh = index.place(Origin.MEMORY, [ids[at] for at in left.tolist()])
            self._kinds[rows[left[~fresh]]] = MemoryKind.REFERENCE
            left = left[fresh]
        else:
            codes[left] = UNNUMBERED
        whole = contents if len(left) == len(contents) else contents[left]
        if index is not None and self._state.keeper is not None:
            self._state.keeper(whole)
        self._add_full(rows[left], whole)
        self._tally("reference", int((self._kinds[rows] == _REFERENCE).sum() - same.sum()))
        self._drop(rows[same], "unchanged")
        self._codes[rows] = codes
        again = before != UNKNOWN
        if self._waits.any():
            self._gone[rows[self._waits]] = True
            went = ~self._waits
            pages, codes, contents, again = pages[went], codes[went], contents[went], again[went]
        sent.remember(pages, codes, contents, again=again)

    def _add_deltas(self, rows: PageNumbers, contents: Pages, codes: Codes, left: PageNumbers) -> PageNumbers:
        """Deltas for those of `left` that have a copy; returns the others, and those that changed too much.

        Of hot pages the delta may wait, too: then only its length is used.
        """
        sent, pages = self._state.sent, self._scan.pages[rows]
        tried = left[sent.has_copy(pages[left]) & (rows[left] != self._must_go)]
        if not len(tried) or (old := sent.copies(pages[tried])) is None:
            return left
        sizes, deltas = xbzrle.encode(old, contents[tried], limit_bytes=DELTA_LIMIT_BYTES)
        codes[tried[sizes >= 0]] = UNNUMBERED
        self._drop(rows[tried[sizes == 0]], "unchanged")
        # encode() joins all deltas: those that wait are cut out of the bytes again, which is rare (hot pages only).
        changed, lengths = tried[sizes > 0], sizes[sizes > 0]
        if (waiting := self._hold_back(pages, contents, changed, lengths)) is not None:
            deltas = np.frombuffer(deltas, dtype=np.uint8)[np.repeat(~waiting, lengths)].tobytes()
            changed, lengths = changed[~waiting], lengths[~waiting]
        self._kinds[rows[changed]] = MemoryKind.DELTA
        self._sizes, self._deltas = lengths, deltas
        self._tally("delta", len(self._sizes))
        return np.setdiff1d(left, tried[sizes >= 0], assume_unique=True)

    def _hold_back(
        self, pages: PageNumbers, contents: Pages, places: PageNumbers, sizes: NDArray[np.int64]
    ) -> NDArray[np.bool_] | None:
        """Let the hot ones of `places` wait, as far as there is room; which do, None if none is hot."""
        if self._hold is None or not len(hot := np.flatnonzero(self._hot[places])):
            return None
        waiting = np.zeros(len(places), dtype=np.bool_)
        waiting[hot] = self._hold.store(pages[places[hot]], contents[places[hot]], sizes[hot])
        self._waits[places[waiting]] = True
        return waiting

    def _add_full(self, rows: PageNumbers, contents: Pages) -> None:
        incompressible = is_incompressible(contents)
        if incompressible.any():
            self._kinds[rows[incompressible]] = MemoryKind.INCOMPRESSIBLE
            self._incompressible, contents = contents[incompressible].reshape(-1).data, contents[~incompressible]
        self._literals = contents.reshape(-1).data
        self._tally("incompressible", int(incompressible.sum()))
        self._tally("literal", int((~incompressible).sum()))

    def _drop(self, rows: PageNumbers, why: str) -> None:
        self._gone[rows] = True
        self._tally(why, len(rows))

    def _tally(self, technique: str, count: int) -> None:
        if count:
            self._state.tally[technique] += count

    # ---- how it goes ----

    def _pack(self) -> list[Column]:
        state = self._state
        kept = np.flatnonzero(~self._gone)
        kinds = self._kinds[kept]
        codes = self._codes[kept[kinds == _REFERENCE]]
        opaque_sizes, opaque = self._opaque(kept[kinds == _OPAQUE])
        is_record = kinds != _OPAQUE
        pages, named, names = self._records(kept[is_record])
        kinds[np.flatnonzero(is_record)[named]] |= NAMED
        columns: dict[MemoryColumn, Bytes] = {
            MemoryColumn.KINDS: kinds.tobytes(),
            MemoryColumn.PAGES: pages,
            MemoryColumn.NAMES: names,
            MemoryColumn.OPAQUE: opaque_sizes,
            MemoryColumn.CODES: _differences(codes, state.last_code).astype("<u4").tobytes(),
            MemoryColumn.SIZES: self._sizes.astype("<u2").tobytes(),
            MemoryColumn.OPAQUE_BYTES: opaque,
            MemoryColumn.DELTAS: self._deltas,
            MemoryColumn.LITERALS: self._literals,
            MemoryColumn.NUMBERED: bytes([state.index is not None]),
            MemoryColumn.INCOMPRESSIBLE: self._incompressible,
        }
        if len(codes):
            state.last_code = int(codes[-1])
        return [Column(columns[column], stored=column is MemoryColumn.INCOMPRESSIBLE) for column in MemoryColumn]

    def _opaque(self, rows: PageNumbers) -> tuple[bytes, bytes]:
        """Lengths and bytes of what passes."""
        scan = self._scan
        begins = scan.starts[rows]
        ends = np.append(scan.starts, scan.end)[rows + 1]
        view = memoryview(scan.buffer)
        parts = [view[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        return (ends - begins).astype("<u4").tobytes(), b"".join(parts)

    def _records(self, rows: PageNumbers) -> tuple[bytes, NDArray[np.bool_], bytes]:
        """Page differences, which records name their block, and these names."""
        state, pages = self._state, self._scan.pages[rows]
        if not len(rows):
            return b"", np.empty(0, dtype=np.bool_), b""
        blocks = self._blocks[rows]
        named = self._scan.named[rows] | (_differences(blocks, state.last_block) != 0)
        names = [state.blocks[block].name for block in blocks[named].tolist()]
        within = pages - self._firsts[blocks]
        differences = _differences(within, state.last_page).astype("<i4").tobytes()
        state.last_page, state.last_block = int(within[-1]), int(blocks[-1])
        return differences, named, b"".join([bytes([len(name)]) + name for name in names])


def _gather(buffer: bytes, bodies: PageNumbers) -> Pages:
    """Contents that begin at these places (int64, in `buffer`), together: shape (n, 4096)."""
    # A run of PAGE records has one stride: a strided view and one copy, instead of a slice for each page.
    if len(bodies) > 1 and (bodies[1:] - bodies[:-1] == _RECORD_BYTES).all():
        shape, begin = (len(bodies), CONTENT_BYTES), int(bodies[0])
        return np.ascontiguousarray(np.ndarray(shape, np.uint8, buffer, begin, (_RECORD_BYTES, 1)))
    view = memoryview(buffer)
    data = b"".join([view[at : at + CONTENT_BYTES] for at in bodies.tolist()])
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, CONTENT_BYTES)


def _differences(values: NDArray[Number], before: int) -> NDArray[Number]:
    """Each value less the one before it, modulo the type's range; `np.diff` with `prepend` costs ten times as much."""
    found = values.copy()
    found[1:] -= values[:-1]
    if len(found):
        found[:1] -= np.array([before], dtype=values.dtype)
    return found
