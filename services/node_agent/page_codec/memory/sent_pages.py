"""What the recipient's guest memory holds, as far as the donor's agent remembers. Pure, bounded.

Per page of the guest 8 bytes: the code of the content that was sent last, and the slot of its copy, if there is one.
The copies lie in a file (`copy_file`) and are bounded. A page that is sent for the first time takes a slot only while
there are free ones; a page that is sent again, and so may be sent a third time, takes that of another one, of a page
that was sent only once if there is such. So the hot pages end up with copies, however large the guest is. Without a
copy there is no delta, and nothing else is lost.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.node_agent.page_codec.contents import Codes, Pages
from services.node_agent.page_codec.copy_file import CopyFile

ZERO: Final = 0xFFFF_FFFE
"""The code of a page that was sent as zero."""
UNNUMBERED: Final = 0xFFFF_FFFD
"""The code of a page whose content went as a delta: it has no number."""

_LOOK_SLOTS: Final = 4096
"""Slots that are looked at together for some to take."""

PageNumbers = NDArray[np.int64]


class SentPages:
    """Pages by their number over all RAM blocks. One call never names a page twice. At most `copies` are in `file`."""

    def __init__(self, pages: int, *, copies: int, file: CopyFile) -> None:
        self._inverted: Codes = np.zeros(
            pages, dtype=np.uint32
        )  # inverted, so that UNKNOWN is 0 and untouched memory costs nothing
        self._slot_of = np.zeros(pages, dtype=np.int32)  # 0: none, so that untouched memory costs nothing
        self._file = file
        self._page_of = np.full(copies, -1, dtype=np.int64)
        self._is_hot = np.zeros(copies, dtype=np.bool_)
        self._used = 0
        self._hand = 0

    def codes(self, pages: PageNumbers) -> Codes:
        """What went last for each page; UNKNOWN for nothing."""
        return ~self._inverted[pages]

    def has_copy(self, pages: PageNumbers) -> NDArray[np.bool_]:
        """Whether each page's last content is there."""
        if self._file.broken:
            return np.zeros(len(pages), dtype=np.bool_)
        return self._slot_of[pages] > 0

    def copies(self, pages: PageNumbers) -> Pages | None:
        """The last contents of pages that have a copy; None where they cannot be read any more."""
        return self._file.read(self._slot_of[pages].astype(np.int64) - 1)

    def remember(self, pages: PageNumbers, codes: Codes, contents: Pages, *, again: NDArray[np.bool_]) -> None:
        """These contents were sent; `again` says which pages had been sent before."""
        self._inverted[pages] = ~codes
        if self._file.broken:
            return
        slotless = np.flatnonzero(self._slot_of[pages] == 0)
        if len(slotless):
            self._find_slots(pages[slotless], again[slotless])
        slots = self._slot_of[pages].astype(np.int64) - 1  # only now: a page of this very batch may have lost its slot
        self._is_hot[slots[again & (slots >= 0)]] = True
        placed = slots >= 0
        every = bool(placed.all())
        self._file.write(slots if every else slots[placed], contents if every else contents[placed])

    def forget(self, pages: PageNumbers, code: int) -> None:
        """These pages have another content now, of which no copy is kept."""
        self._inverted[pages] = ~np.uint32(code)
        slots = self._slot_of[pages]
        held = slots[slots > 0]
        if len(held):
            self._page_of[held - 1] = -1
            self._slot_of[pages] = 0

    def _find_slots(self, pages: PageNumbers, again: NDArray[np.bool_]) -> None:
        free = min(len(self._page_of) - self._used, len(pages))
        begin, self._used = self._used, self._used + free
        self._page_of[begin : self._used] = pages[:free]
        self._slot_of[pages[:free]] = np.arange(begin + 1, self._used + 1)
        if free < len(pages):
            self._reassign_slots(pages[free:][again[free:]])

    def _reassign_slots(self, pages: PageNumbers) -> None:
        """Give these pages slots of others, which may be pages of this very batch: those simply have no copy then."""
        taken = self._choose_slots(len(pages))
        losers = self._page_of[taken]
        self._slot_of[losers[losers >= 0]] = 0
        pages = pages[: len(taken)]
        self._page_of[taken] = pages
        self._slot_of[pages] = taken + 1

    def _choose_slots(self, count: int) -> PageNumbers:
        """Slots to give to others, in turn: of pages that were sent once, and when there are none left, of any."""
        if not count or not len(self._page_of):
            return np.empty(0, dtype=np.int64)
        found: list[PageNumbers] = []
        wanted, slots = count, len(self._page_of)
        for begin in range(0, slots, _LOOK_SLOTS):
            order = (self._hand + np.arange(begin, min(begin + _LOOK_SLOTS, slots))) % slots
            found.append(order[~self._is_hot[order]][:wanted])
            wanted -= len(found[-1])
            if not wanted:
                break
        else:
            self._is_hot[:] = False
            found = [(self._hand + np.arange(min(count, slots))) % slots]
        taken = np.concatenate(found)
        self._hand = int(taken[-1]) + 1
        return taken
