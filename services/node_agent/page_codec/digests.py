"""Digests of 4 KiB contents as arrays: BLAKE3, cut to 16 bytes."""

from __future__ import annotations

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from services.node_agent.page_codec.contents import CONTENT_BYTES, ID_BYTES, Pages

Digests = NDArray[np.uint64]
"""Shape (n, 2): BLAKE3 digests of contents, cut to 16 bytes."""
Hits = NDArray[np.bool_]
"""Shape (n,): which of n contents the other end has."""


def digests_of(joined: bytes) -> Digests:
    """The digests in `joined`, ID_BYTES each. Raises ValueError for another length."""
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2).astype(np.uint64, copy=False)


def digests_of_pages(pages: Pages) -> Digests:
    """One digest per content, shape (n, 2)."""
    data = np.ascontiguousarray(pages).reshape(-1).data
    ends = range(CONTENT_BYTES, len(data) + 1, CONTENT_BYTES)
    return digests_of(b"".join([blake3(data[end - CONTENT_BYTES : end]).digest(ID_BYTES) for end in ends]))
