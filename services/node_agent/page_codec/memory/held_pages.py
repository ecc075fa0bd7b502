"""Hot pages that wait at the donor: which pages are hot, their newest contents, and when they have cooled. Pure,
bounded. Where in the stream they go is the encoder's business.

A page is hot when QEMU has sent it again HOT_AFTER times. Its newest version then waits here instead of crossing the
wire, and a newer one takes its place; whatever QEMU sends for a page ends the waiting of the version before.

A round is one walk of QEMU over the dirty pages of all blocks, which it takes in ascending order: one begins where a
page stands before or at the page that came last. A page that a whole round went by without has cooled. A round may go
unseen when all its pages lie behind those of the round before; then pages wait longer, and nothing else: all go with
the last section in any case, so nothing rests on the rounds but how much is saved.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.node_agent.page_codec.contents import CONTENT_BYTES, Pages
from services.node_agent.page_codec.memory.sent_pages import PageNumbers

HOT_AFTER: Final = 2
"""Times that QEMU has sent a page again."""
MAX_HELD_PAGES: Final = 4096
"""16 MiB."""
DEFAULT_HOLD_BYTES: Final = 1 << 20
"""Of what waits, as it would go: at 100 Mbit/s 84 ms of the downtime."""

_COOL_AFTER_ROUNDS: Final = 2
"""The round in which a page came may just end; the next one is whole."""
_MOST_TIMES: Final = 255


class HeldPages:
    """Pages by their number over all RAM blocks, `pages` of them. One call never names a page twice.

    `limit_bytes` bounds what waits, as it would go; it may change at any time, and what is beyond it is due then.
    """

    def __init__(self, pages: int, *, limit_bytes: int = DEFAULT_HOLD_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._times = np.zeros(pages, dtype=np.uint8)
        self._slot_of = np.zeros(pages, dtype=np.int16)  # 0: none, so that untouched memory costs nothing
        slots = min(pages, MAX_HELD_PAGES)
        self._contents: Pages = np.empty((slots, CONTENT_BYTES), dtype=np.uint8)
        self._page_of = np.full(slots, -1, dtype=np.int64)
        self._sizes = np.zeros(slots, dtype=np.int64)
        self._came_in = np.zeros(slots, dtype=np.int64)
        self._count = 0
        self._round = 0
        self._last_page = -1

    def __len__(self) -> int:
        return self._count

    def observe_order(self, pages: PageNumbers) -> None:
        """QEMU sent these pages, in this order."""
        if len(pages):
            # Within a round page numbers rise, so each step that does not rise begins one.
            self._round += int(pages[0] <= self._last_page) + int((pages[1:] <= pages[:-1]).sum())
            self._last_page = int(pages[-1])

    def count_resent(self, pages: PageNumbers) -> NDArray[np.bool_]:
        """QEMU sent each of these pages once more; which are hot."""
        times = self._times[pages]
        # Stops at 255: a uint8 would go on at 0, and the hottest page would count as cold.
        self._times[pages] = np.minimum(times, _MOST_TIMES - 1) + 1
        return times >= HOT_AFTER

    def store(self, pages: PageNumbers, contents: Pages, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Hold back these pages, none of which is held; which (bool) found room. `sizes`: their bytes on the wire."""
        # The sums only grow, so the pages that find room are the first ones.
        room = self.held_bytes + np.cumsum(sizes) <= self.limit_bytes
        room &= np.arange(len(pages)) < len(self._page_of) - self._count
        count = int(room.sum())
        if count:
            slots = np.flatnonzero(self._page_of < 0)[:count]
            self._contents[slots] = contents[room]
            self._page_of[slots] = pages[room]
            self._sizes[slots] = sizes[room]
            self._came_in[slots] = self._round
            self._slot_of[pages[room]] = slots + 1
            self._count += count
            self.held_bytes += int(sizes[room].sum())
        return room

    def discard(self, pages: PageNumbers) -> int:
        """Other versions of these pages came: those that wait are not needed any more. How many did."""
        if not self._count:
            return 0
        slots = self._slot_of[pages]
        return self._free(slots[slots > 0].astype(np.int64) - 1)

    def due(self) -> PageNumbers:
        """Pages that should go now, in ascending order: those that have cooled, and those beyond the limit."""
        slots = self._waiting()
        cooled = self._round - self._came_in[slots] >= _COOL_AFTER_ROUNDS
        # The limit may have been lowered since: from the lowest page on, what fits may stay.
        staying = np.cumsum(np.where(cooled, 0, self._sizes[slots]))
        return self._page_of[slots[cooled | (staying > self.limit_bytes)]]

    def pages(self) -> PageNumbers:
        """All that wait, in ascending order."""
        return self._page_of[self._waiting()]

    def pop(self, pages: PageNumbers) -> Pages:
        """The contents of held pages, which are then held no longer; their count of resends starts again."""
        slots = self._slot_of[pages].astype(np.int64) - 1
        contents = self._contents[slots]
        self._times[pages] = 1
        self._free(slots)
        return contents

    def _waiting(self) -> PageNumbers:
        """Slots in use, by their page."""
        if not self._count:
            return np.empty(0, dtype=np.int64)
        slots = np.flatnonzero(self._page_of >= 0)
        return slots[np.argsort(self._page_of[slots])]

    def _free(self, slots: PageNumbers) -> int:
        self._slot_of[self._page_of[slots]] = 0
        self._page_of[slots] = -1
        self._count -= len(slots)
        self.held_bytes -= int(self._sizes[slots].sum())
        return len(slots)
