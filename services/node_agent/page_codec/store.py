"""Contents on disk, by origin and number: what a recipient holds of a port. A `contents.ContentStore` in plain files.

A folder per port, a sparse file per origin: a ring of `keep` slots of 4 KiB, content n in slot n mod keep. So the bound
and the eviction (oldest first) are the format itself. Files are read and written by offset, not mapped: a mapped file
counts as the agent's memory, and a full disk would kill the agent by SIGBUS where a write just fails.

Crash safety: nothing in these files is believed after the process that wrote them. What a later port takes from them
(`dedup.cache`) it finds by the digest of the bytes as they stand on disk, and compares again when it reads them. A torn
page is then only a content that nobody asks for. So nothing is synced while a guest waits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    Arrived,
    ContentMissingError,
    Numbers,
    Origin,
    Pages,
)

_AT_ONCE: Final = 256
"""Contents that are read by one call, where they lie together."""


class KnownReader(Protocol):
    """Reads contents that are stored elsewhere."""

    def fetch(self, numbers: Numbers) -> Pages:
        """As `ContentStore.fetch`."""
        ...


class FileStore:
    """One port's contents. `folder` must not hold another port's files. Close it.

    `known` reads those of origin KNOWN, where an exchange before the transfer gave them numbers.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Raises OSError."""
        self.folder = folder
        self.known: KnownReader | None = None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keep = keep
        self._rings: dict[Origin, _Ring] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, origin: Origin, pages: Pages) -> None:
        """Take the next `len(pages)` numbers of this origin. Raises OSError, as when the disk is full."""
        self.insert(origin, self.count(origin), pages)

    def insert(self, origin: Origin, first: int, pages: Pages) -> None:
        """Take numbers `first` and on of this origin. Raises OSError, and CodecError for numbers that cannot be."""
        if len(pages):
            self._ring(origin).insert(first, pages)

    def fetch(self, origin: Origin, numbers: Numbers) -> Pages:
        """The contents, in the order of `numbers`. Raises ContentMissingError for the first that is not held.

        Raises CodecError for one that never will be.
        """
        if origin is not Origin.KNOWN:
            return self._ring(origin).fetch(numbers)
        if self.known is None:
            raise CodecError(finding=f"content {numbers[0]} of known, but nothing is known here")
        return self.known.fetch(numbers)

    def count(self, origin: Origin) -> int:
        """How many came so far, those after a gap not counted."""
        return self._ring(origin).arrived.next

    def close(self) -> None:
        """Close the files; they stay."""
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()

    def _ring(self, origin: Origin) -> _Ring:
        ring = self._rings.get(origin)
        if ring is None:
            ring = self._rings[origin] = _Ring(self.folder / f"{origin.name.lower()}.contents", origin, self._keep)
        return ring


class NoStore:
    """A port of which nothing may be stored: a `contents.ContentStore` that holds nothing.

    Its donor refers to no content; one that does is refused.
    """

    def append(self, origin: Origin, pages: Pages) -> None:
        """Forget them."""

    def insert(self, origin: Origin, first: int, pages: Pages) -> None:
        """Forget them."""

    def fetch(self, origin: Origin, numbers: Numbers) -> Pages:
        """There is none. Raises CodecError for the first."""
        if len(numbers):
            raise CodecError(finding=f"content {numbers[0]} of {origin.name.lower()}, but nothing is stored here")
        return np.empty((0, CONTENT_BYTES), dtype=np.uint8)


class _Ring:
    def __init__(self, path: Path, origin: Origin, keep: int) -> None:
        # Emptied when opened: numbers start at 0 again, and old bytes must not stand for new ones.
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)
        self._origin = origin
        self._keep = keep
        self.arrived = Arrived(most_ahead=keep // 2)

    def insert(self, first: int, pages: Pages) -> None:
        self.arrived.check(first, len(pages))
        skipped = max(0, len(pages) - self._keep)  # they would be overwritten at once
        data = np.ascontiguousarray(pages[skipped:]).reshape(-1).data
        slot = (first + skipped) % self._keep
        until_wrap = (self._keep - slot) * CONTENT_BYTES
        _write(self._file, data[:until_wrap], slot * CONTENT_BYTES)
        _write(self._file, data[until_wrap:], 0)
        self.arrived.add(first, len(pages))

    def fetch(self, numbers: Numbers) -> Pages:
        wanted = numbers.astype(np.int64)
        # Held is what has arrived, and whose slot no newer content has taken since.
        missing = np.flatnonzero(~self.arrived.has(wanted) | (wanted < self.arrived.end - self._keep))
        if len(missing):
            raise ContentMissingError(origin=self._origin, number=int(wanted[missing[0]]))
        pages = np.empty((len(wanted), CONTENT_BYTES), dtype=np.uint8)
        for start, end, slot in runs(wanted % self._keep):
            if os.preadv(self._file, [pages[start:end].data], slot * CONTENT_BYTES) != (end - start) * CONTENT_BYTES:
                raise ContentMissingError(origin=self._origin, number=int(wanted[start]))
        return pages

    def close(self) -> None:
        os.close(self._file)


def runs(slots: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[tuple[int, int, int]]:
    """Runs of slots that follow each other: start and end in `slots`, and the first slot; at most _AT_ONCE each."""
    borders = np.flatnonzero(np.diff(slots) != 1) + 1
    starts = [0, *borders.tolist()] if len(slots) else []
    ends = [*borders.tolist(), len(slots)]
    return [
        (at, min(at + _AT_ONCE, end), int(slots[at]))
        for start, end in zip(starts, ends, strict=False)
        for at in range(start, end, _AT_ONCE)
    ]


def _write(file: int, data: memoryview, offset: int) -> None:
    while len(data):
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
