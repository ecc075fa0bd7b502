"""Copies of pages in a file of their own, by slot: what deltas are made against. Pure but for reading and writing it.

In a file and not in the agent's memory, so that all of a guest's pages can have one: the kernel drops its cache of it
when memory is needed. The file has no name and ends with its descriptor. Once reading or writing has failed it is
`broken`, and says so once: deltas only save bytes, and a port must not fail for them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from services.node_agent.page_codec.contents import CONTENT_BYTES, Pages
from services.node_agent.page_codec.store import runs

Slots = NDArray[np.int64]


class CopyFile:
    """Owns `descriptor`, of an empty file. `on_error` hears the error that broke it."""

    def __init__(self, descriptor: int, on_error: Callable[[OSError], None]) -> None:
        self._file = descriptor
        self._on_error = on_error
        self._close = weakref.finalize(self, os.close, descriptor)
        self.broken = False

    @classmethod
    def in_memory(cls, on_error: Callable[[OSError], None]) -> Self:
        """For offline use, where there is no folder for it. Raises OSError."""
        return cls(os.memfd_create("vmport-copies", os.MFD_CLOEXEC), on_error)

    def write(self, slots: Slots, contents: Pages) -> None:
        """Put one content into each slot."""
        contents = np.ascontiguousarray(contents)
        for start, end, slot in runs(slots):
            data = contents[start:end].reshape(-1).data
            self._move(os.pwritev, data, slot)

    def read(self, slots: Slots) -> Pages | None:
        """The contents of slots that were written; None where the file is broken."""
        contents = np.empty((len(slots), CONTENT_BYTES), dtype=np.uint8)
        for start, end, slot in runs(slots):
            self._move(os.preadv, contents[start:end].reshape(-1).data, slot)
        return None if self.broken else contents

    def close(self) -> None:
        """Give the file up; idempotent."""
        self.broken = True
        self._close()

    def _move(self, call: Callable[[int, list[memoryview], int], int], data: memoryview, slot: int) -> None:
        if self.broken:
            return
        try:
            # A part of a copy is as bad as none: the recipient would apply the delta to another page.
            if call(self._file, [data], slot * CONTENT_BYTES) != len(data):
                raise OSError(f"only a part of {len(data)} bytes could be moved")
        except OSError as error:
            self.broken = True
            self._on_error(error)
