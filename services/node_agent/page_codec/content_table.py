"""Which contents a port has sent already, and under which number: an open-addressed hash table in two numpy arrays.

Shared by all encoders of a port, so that memory refers to what the disk sent and the other way round. A content is
4 KiB; its id is its BLAKE3 digest, cut to 16 bytes, and never leaves the host: on the wire stand numbers.

A content's *code* is 32 bits: `Origin` in the upper two, its number there in the lower 30. Numbers count contents sent
in full, per origin, in the order of sending; so both ends count alike and no number is sent.

Bounded: two generations of `max_contents / 2` each. When the younger is full, the older is dropped; what is found in
the older moves to the younger. 20 bytes a slot, at most half of the slots used. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

CONTENT_BYTES: Final = 4096
ID_BYTES: Final = 16
NUMBER_BITS: Final = 30
MAX_NUMBER: Final = (1 << NUMBER_BITS) - 1
UNKNOWN: Final = 0xFFFF_FFFF
"""No content's code: origin 3 is not used."""

Ids = npt.NDArray[np.uint64]
"""Shape (n, 2): the two halves of each id."""
Codes = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

_MIN_SLOTS: Final = 1024


class Origin(IntEnum):
    """Where a content came from first."""

    MEMORY = 0
    DISK = 1
    KNOWN = 2  # the recipient had it before the port: a base image, or an earlier port of this VM


def code_of(origin: Origin, number: int) -> int:
    """The code of one content. Raises OverflowError past MAX_NUMBER."""
    if not 0 <= number <= MAX_NUMBER:
        raise OverflowError(f"content number {number} is over {MAX_NUMBER}")
    return origin << NUMBER_BITS | number


def content_ids(contents: Iterable[bytes | memoryview]) -> Ids:
    """Ids of contents, in order."""
    digests = b"".join([blake3(content).digest(ID_BYTES) for content in contents])
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2).astype(np.uint64, copy=False)


class ContentTable:
    """Ids to codes, at most `max_contents` of them."""

    def __init__(self, *, max_contents: int) -> None:
        self._limit = max(_MIN_SLOTS // 2, max_contents // 2)
        self._young = _Generation()
        self._old = _Generation()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def memory_bytes(self) -> int:
        """What the arrays take."""
        return self._young.memory_bytes + self._old.memory_bytes

    def find(self, ids: Ids) -> Codes:
        """Each id's code, or UNKNOWN."""
        codes = self._young.find(ids)
        if len(self._old):
            missing = np.flatnonzero(codes == UNKNOWN)
            if len(missing):
                found = self._old.find(ids[missing])
                hits = found != UNKNOWN
                if hits.any():
                    codes[missing[hits]] = found[hits]
                    self._add(ids[missing[hits]], found[hits])
        return codes

    def number(self, ids: Ids, origin: Origin, first_number: int) -> tuple[Codes, Flags]:
        """Codes of all ids, and which of them are new: those get the next numbers of `origin`, in order.

        An id that stands in the batch twice is new only once.
        """
        codes = self.find(ids)
        fresh = codes == UNKNOWN
        at = np.flatnonzero(fresh)
        if not len(at):
            return codes, fresh
        code_of(origin, first_number + len(at) - 1)
        _, first_at, same = np.unique(ids[at], axis=0, return_index=True, return_inverse=True)
        order = np.sort(first_at)
        numbers = np.empty(len(at), dtype=np.uint32)
        numbers[order] = np.arange(len(order), dtype=np.uint32) + np.uint32(code_of(origin, first_number))
        codes[at] = numbers[first_at[same.reshape(-1)]]
        fresh[at] = False
        fresh[at[order]] = True
        self._add(ids[at[order]], numbers[order])
        return codes, fresh

    def put(self, ids: Ids, codes: Codes) -> None:
        """Remember ids under codes; one that is known already keeps its code. Ids within one call may repeat."""
        at = np.flatnonzero(self.find(ids) == UNKNOWN)
        if len(at):
            _, first_at = np.unique(ids[at], axis=0, return_index=True)
            self._add(ids[at[first_at]], codes[at[first_at]])

    def _add(self, ids: Ids, codes: Codes) -> None:
        """Ids that the younger generation lacks, each once."""
        for start in range(0, len(ids), self._limit):
            part = slice(start, start + self._limit)
            if len(self._young) + len(ids[part]) > self._limit:
                self._old, self._young = self._young, _Generation()
            self._young.add(ids[part], codes[part])


class _Generation:
    def __init__(self) -> None:
        self._used = 0
        self._keys: Ids = np.zeros((_MIN_SLOTS, 2), dtype=np.uint64)
        self._codes: Codes = np.full(_MIN_SLOTS, UNKNOWN, dtype=np.uint32)

    def __len__(self) -> int:
        return self._used

    @property
    def memory_bytes(self) -> int:
        return self._keys.nbytes + self._codes.nbytes

    def find(self, ids: Ids) -> Codes:
        """Linear probing, all ids at once: those that met another key go on to the next slot."""
        found: Codes = np.full(len(ids), UNKNOWN, dtype=np.uint32)
        if not self._used:
            return found
        mask = np.uint64(len(self._codes) - 1)
        looking = np.arange(len(ids))
        slots = ids[:, 0] & mask
        while len(looking):
            codes = self._codes[slots]
            same = (self._keys[slots] == ids[looking]).all(axis=1) & (codes != UNKNOWN)
            found[looking[same]] = codes[same]
            on = ~same & (codes != UNKNOWN)
            looking, slots = looking[on], (slots[on] + np.uint64(1)) & mask
        return found

    def add(self, ids: Ids, codes: Codes) -> None:
        """Ids that are not there, each once."""
        while 2 * (self._used + len(ids)) > len(self._codes):
            self._grow()
        self._place(ids, codes)
        self._used += len(ids)

    def _place(self, ids: Ids, codes: Codes) -> None:
        mask = np.uint64(len(self._codes) - 1)
        left = np.arange(len(ids))
        slots = ids[:, 0] & mask
        while len(left):
            free = np.flatnonzero(self._codes[slots] == UNKNOWN)
            # Of several that want one free slot, the first takes it.
            _, first = np.unique(slots[free], return_index=True)
            taken = free[first]
            self._keys[slots[taken]] = ids[left[taken]]
            self._codes[slots[taken]] = codes[left[taken]]
            rest = np.ones(len(left), dtype=np.bool_)
            rest[taken] = False
            left, slots = left[rest], (slots[rest] + np.uint64(1)) & mask

    def _grow(self) -> None:
        keys, codes = self._keys, self._codes
        used = codes != UNKNOWN
        self._keys = np.zeros((2 * len(codes), 2), dtype=np.uint64)
        self._codes = np.full(2 * len(codes), UNKNOWN, dtype=np.uint32)
        self._place(keys[used], codes[used])
