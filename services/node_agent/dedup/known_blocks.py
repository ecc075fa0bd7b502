"""Blocks that both ends know by the same number since the exchange: read from files, each verified by its digest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    ID_BYTES,
    ContentMissingError,
    Numbers,
    Origin,
    Pages,
)
from services.node_agent.page_codec.digests import Digests, digests_of, digests_of_pages
from services.node_agent.page_codec.store import runs


class KnownBlocks:
    """Contents of origin KNOWN: which block of which file each number stands for. Files stay open until `close`."""

    def __init__(
        self, files: Sequence[Path], file_of: NDArray[np.int64], blocks: NDArray[np.int64], digests: Digests
    ) -> None:
        """Row n of the arrays is content n: its file (index in `files`), block there and digest. Raises OSError."""
        self.paths = list(files)
        self._file_of = file_of
        self._blocks = blocks
        self._digests = digests
        self._files: list[int] = []
        self._stored: dict[int, bytes] = {}
        self.missing: list[int] = []
        try:
            for path in files:
                self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._blocks)

    def fetch(self, numbers: Numbers) -> Pages:
        """The contents in the order of `numbers`. Raises ContentMissingError if a block is gone or has changed.

        `missing` then lists all such numbers of the call; contents that are given to `store` serve the next call.
        """
        wanted = numbers.astype(np.int64)
        self.missing = []
        if len(wanted) and (wanted.max() >= len(self) or not self._files):
            raise ContentMissingError(origin=Origin.KNOWN, number=int(wanted.max()))
        # Blocks of different files never follow each other: 2^40 blocks lie between.
        pages = np.zeros((len(wanted), CONTENT_BYTES), dtype=np.uint8)
        for start, end, place in runs(self._file_of[wanted] << 40 | self._blocks[wanted]):
            file, block = self._files[place >> 40], place & ((1 << 40) - 1)
            os.preadv(
                file, [pages[start:end].data], block * CONTENT_BYTES
            )  # a short read leaves zeros: the digest then differs
        found = digests_of_pages(pages)
        changed = np.flatnonzero((found != self._digests[wanted]).any(axis=1))
        for row in changed.tolist():
            stored = self._stored.get(int(wanted[row]))
            if stored is not None:
                pages[row] = np.frombuffer(stored, dtype=np.uint8)
        self.missing = sorted({int(number) for number in wanted[changed]} - self._stored.keys())
        if self.missing:
            raise ContentMissingError(origin=Origin.KNOWN, number=self.missing[0])
        return pages

    def store(self, number: int, content: bytes) -> bool:
        """Use this content for a block that has changed; False if it is not the expected content."""
        fits = bool((digests_of(blake3(content).digest(ID_BYTES))[0] == self._digests[number]).all())
        if fits:
            self._stored[number] = content
        return fits

    def path_of(self, number: int) -> Path:
        """The file that a content is in."""
        return self.paths[int(self._file_of[number])]

    def close(self) -> None:
        """Close the files; idempotent."""
        for file in self._files:
            os.close(file)
        self._files.clear()
