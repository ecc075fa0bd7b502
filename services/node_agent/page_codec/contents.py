"""Contents of 4 KiB: their keyed ids, and which of them the recipient holds under which number. Pure.

The donor's side of "each content crosses the wire once per port". One `ContentIndex` belongs to a port and is shared by
its streams. A content that goes out literally in a stream gets the next number of that stream's origin; numbers are
dense and begin at 0. Memory has one stream, so the recipient counts along there. Disks may have several, and of two
streams either may be decoded first, so their literals say their numbers. A later occurrence goes as (origin, number).

Which contents the recipient still holds follows from numbers alone: of each origin the newest `keep` ones, the same
figure at both ends (the hello carries it). The donor refers to the newest half of them only, since a lane may be ahead
of another; so nothing is referred to that was evicted, and nobody need ask. A reference may overtake its literal when
they travel in different streams; the recipient then waits for it.

The recipient's side is `ContentStore`: a protocol here, a file in `store`. Origin KNOWN numbers contents of published
base images and of what an earlier port left; those numbers come from the catalogue's exchange.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import repeat
from typing import Final, Protocol

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from services.node_agent.page_codec.codec import CodecError

CONTENT_BYTES: Final = 4096
ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32
"""A whole BLAKE3 digest: no two contents have the same one."""
KEY_BYTES: Final = 32
DEFAULT_KEEP: Final = 1 << 20
"""Contents per origin that a recipient holds: 4 GiB of (sparse) file each."""

Pages = NDArray[np.uint8]
"""Shape (n, 4096)."""
Numbers = NDArray[np.uint32]
Codes = NDArray[np.uint32]
"""`origin << 30 | number`."""
MAX_NUMBER: Final = (1 << 30) - 1
NUMBER_BITS: Final = MAX_NUMBER.bit_length()
UNKNOWN: Final = 0xFFFF_FFFF
"""No content's code."""


class Origin(IntEnum):
    """Where a content got its number."""

    MEMORY = 0
    DISK = 1
    KNOWN = 2  # the recipient had it before the port: a base image, or an earlier port of this VM


MOST_RUNS: Final = 1 << 14
"""Runs of numbers that came before others: payloads of one stream that wait while another goes on."""
_AGEING: Final = frozenset({Origin.MEMORY, Origin.DISK})
_ORIGINS: Final = tuple(Origin)


class ContentMissingError(CodecError):
    """A referred content has not arrived: from another stream of the port it may still come, from the own one never."""

    code = "content_missing"

    def __init__(self, *, origin: Origin, number: int) -> None:
        self.origin = origin
        self.number = number
        super().__init__(finding=f"content {number} of {origin.name.lower()} has not arrived")


class Arrived:
    """Which numbers of one origin have arrived. `add` them in any order, each once."""

    def __init__(self, *, most_ahead: int) -> None:
        """`most_ahead` is the largest gap past the first missing number."""
        self.next = 0
        """All numbers below it have arrived."""
        self._most_ahead = most_ahead
        self._starts: list[int] = []  # of runs beyond `next`, and their ends; no two touch
        self._ends: list[int] = []

    @property
    def end(self) -> int:
        """One more than the highest number that has arrived."""
        return self._ends[-1] if self._ends else self.next

    def check(self, first: int, count: int) -> None:
        """Raises CodecError where `add` would be wrong."""
        at = bisect_right(self._starts, first)
        before = self._ends[at - 1] if at else self.next
        after = self._starts[at] if at < len(self._starts) else first + count
        if first < before or first + count > after:
            raise CodecError(finding=f"contents {first} to {first + count - 1} came already, or some of them")
        if first - self.next > self._most_ahead or (first > self.next and len(self._starts) >= MOST_RUNS):
            raise CodecError(finding=f"content {first} came while {self.next} is missing: too far ahead")

    def add(self, first: int, count: int) -> None:
        """These have come. Raises CodecError as `check` does."""
        if not count:
            return
        self.check(first, count)
        at, end = bisect_right(self._starts, first), first + count
        if at < len(self._starts) and self._starts[at] == end:
            end = self._ends[at]
            del self._starts[at], self._ends[at]
        if first == self.next:
            self.next = end
        elif at and self._ends[at - 1] == first:
            self._ends[at - 1] = end
        else:
            self._starts.insert(at, first)
            self._ends.insert(at, end)

    def has(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these numbers (bool) have arrived."""
        there: NDArray[np.bool_] = numbers < self.next
        if self._starts and not there.all():
            run = np.searchsorted(self._starts, numbers, side="right") - 1
            there |= (run >= 0) & (numbers < np.array(self._ends)[run])
        return there


class ContentStore(Protocol):
    """What a recipient holds of a port's contents, by origin and number."""

    def append(self, origin: Origin, pages: Pages) -> None:
        """Take the next `len(pages)` numbers of this origin; drop what is older than the newest `keep`."""
        ...

    def insert(self, origin: Origin, first: int, pages: Pages) -> None:
        """Take numbers `first` and on of this origin, whatever came before. Raises CodecError for taken ones."""
        ...

    def fetch(self, origin: Origin, numbers: Numbers) -> Pages:
        """The contents, in the order of `numbers`. Raises ContentMissingError for the first that is not held."""
        ...


class ContentIndex:
    """What the recipient holds, as the donor knows it. `key` is the port's own."""

    def __init__(self, key: bytes, *, keep: int = DEFAULT_KEEP) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key has {len(key)} bytes, {KEY_BYTES} needed")
        self._key = key
        self._refer = keep // 2
        # Two generations bound the memory without a queue: what is not met again while one fills is forgotten.
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}
        self._next = [0] * len(Origin)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def ids(self, data: memoryview | bytes) -> list[bytes]:
        """Keyed ids of consecutive contents; `data` has a multiple of CONTENT_BYTES."""
        view = memoryview(data)
        return self.ids_of(
            [blake3(view[at : at + CONTENT_BYTES]).digest() for at in range(0, len(view), CONTENT_BYTES)]
        )

    def ids_of(self, digests: Iterable[bytes]) -> list[bytes]:
        """Keyed ids of contents with these whole digests: what was read before there was a port need not be again."""
        key = self._key
        return [blake3(digest, key=key).digest(ID_BYTES) for digest in digests]

    def next_number(self, origin: Origin) -> int:
        """What the next literal of this origin gets."""
        return self._next[origin]

    def skip(self, origin: Origin, count: int) -> None:
        """Count literals that nothing will refer to."""
        self._next[origin] += count

    def place(self, origin: Origin, ids: Sequence[bytes]) -> tuple[Codes, NDArray[np.bool_]]:
        """Where each content is, in order, and whether it must go literally now.

        Codes are `origin << 30 | number`. Those that must go got the next numbers of `origin`, in order; the same
        content twice in `ids` goes once.
        """
        codes = self.find(ids)
        fresh = codes == UNKNOWN
        number = self._next[origin]
        placed: dict[bytes, int] = {}
        for at in np.flatnonzero(fresh).tolist():
            code = origin << 30 | number
            if (before := placed.setdefault(ids[at], code)) == code:
                number += 1
            else:
                fresh[at] = False
            codes[at] = before
        self._young |= placed
        self._next[origin] = number
        self._age()
        return codes, fresh

    def find(self, ids: Sequence[bytes]) -> Codes:
        """As `place`, but UNKNOWN for what must go, and nothing gets a number."""
        codes = np.array(list(map(self._young.get, ids, repeat(UNKNOWN))), dtype=np.uint32)
        if self._old:
            for at in np.flatnonzero(codes == UNKNOWN).tolist():
                codes[at] = self._old.get(ids[at], UNKNOWN)
        oldest = [self._oldest(origin) for origin in _ORIGINS]
        if max(oldest) > 0:
            of_each = np.array([*oldest, 0])[codes >> NUMBER_BITS]  # the last is what UNKNOWN looks at
            codes[(codes & np.uint32(MAX_NUMBER)) < of_each] = UNKNOWN
        return codes

    def learn(self, origin: Origin, ids: Sequence[bytes]) -> None:
        """The recipient holds these under the next numbers of `origin`, from elsewhere than this port's lanes."""
        number = self._next[origin]
        for content in ids:
            self._young.setdefault(content, origin << 30 | number)
            number += 1
        self._next[origin] = number
        self._age()

    def forget(self) -> None:
        """The port is over: free the memory now, not when a cycle through it is found."""
        self._young, self._old = {}, {}

    def _oldest(self, origin: Origin) -> int:
        return self._next[origin] - self._refer if origin in _AGEING else 0

    def _age(self) -> None:
        if len(self._young) >= self._refer:
            self._old, self._young = self._young, {}
