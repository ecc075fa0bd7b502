"""Which contents seeding sends, pass by pass. Pure; it reads and sends nothing.

The first pass over a VM sends every content once. A content that a later pass finds new was written since, and may be
written again before the window opens; so it is sent only if the next pass finds it again. A page or block that keeps
changing is never sent by seeding, however long that lasts: the port itself sends it once.

Contents are compared by 8 bytes of their digest. If two share them, one of the two is not seeded, which costs bytes
later and nothing else.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.node_agent.page_codec.digests import Digests, Hits

_RECENT: Final = 1 << 16
"""Newest words, kept in a small array of their own: to add to the large one copies it."""

Words = NDArray[np.uint64]
_NONE: Final[Words] = np.empty(0, dtype=np.uint64)


class WordSet:
    """A growing set of uint64 words as two sorted arrays: 8 bytes each, many times less than in a Python set."""

    def __init__(self, words: Words = _NONE) -> None:
        self._sorted = np.unique(words)
        self._recent = _NONE

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def has(self, words: Words) -> Hits:
        """Which of these words (bool, one per word) are in the set."""
        return _in(self._sorted, words) | _in(self._recent, words)

    def add(self, words: Words) -> None:
        """Add these words."""
        self._recent = np.union1d(self._recent, words[~self.has(words)])
        if len(self._recent) > _RECENT:
            self._sorted = np.union1d(self._sorted, self._recent)
            self._recent = _NONE


class SeedPlan:
    """Passes over one VM: for each piece `choose` and then `stored`, after each pass `end_pass`."""

    def __init__(self) -> None:
        self.passes = 0
        self._taken = WordSet()
        self._waiting = WordSet()
        self._met: list[Words] = []

    def choose(self, digests: Digests) -> NDArray[np.int64]:
        """Rows of this piece to send now (int64, ascending), each content once."""
        words, first = np.unique(digests[:, 0], return_index=True)
        new = ~self._taken.has(words)
        if self.passes:
            # Found new in the last pass and still there: it goes now. Found new in this one: it waits for the next.
            still_there = self._waiting.has(words)
            self._met.append(words[new & ~still_there])
            new &= still_there
        return np.sort(first[new]).astype(np.int64)

    def stored(self, digests: Digests) -> None:
        """The recipient has stored these."""
        self._taken.add(digests[:, 0])

    def end_pass(self) -> None:
        """The pass over the whole VM is complete."""
        self.passes += 1
        self._waiting = WordSet(np.concatenate(self._met) if self._met else _NONE)
        self._met.clear()


def _in(sorted_words: Words, words: Words) -> Hits:
    if not len(sorted_words):
        return np.zeros(len(words), dtype=np.bool_)
    at = np.minimum(np.searchsorted(sorted_words, words), len(sorted_words) - 1)
    found: Hits = sorted_words[at] == words
    return found
