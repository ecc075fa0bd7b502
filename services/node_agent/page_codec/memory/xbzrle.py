"""QEMU's XBZRLE deltas, for many pages at once. Pure.

Source: QEMU's docs/devel/migration/xbzrle. A delta is a sequence of (zrun, nzrun): ULEB128 number of bytes that are as
before, ULEB128 number of bytes that are new, and these bytes. What follows the last nzrun is as before. Only the first
zrun may be 0; a delta is never empty. QEMU applies it to its own memory.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES: Final = 4096

Pages = NDArray[np.uint8]
"""Shape (n, 4096)."""


def encode(old: Pages, new: Pages, *, limit_bytes: int) -> tuple[NDArray[np.int64], bytes]:
    """Deltas that turn each page of `old` into that of `new`.

    Lengths in bytes, 0 for a page that is as before and -1 for one whose delta would exceed `limit_bytes`; and all
    deltas, one after the other.
    """
    changed = old != new
    # One unchanged byte between two changed ones is cheaper as new data than as two more run lengths.
    changed[:, 1:-1] |= changed[:, :-2] & changed[:, 2:]
    rows, starts, ends = _runs(changed)
    same, fresh, sizes = _lengths(rows, starts, ends)
    # The sum of its runs' sizes for each page; a page without runs gets 0.
    lengths = np.bincount(rows, weights=sizes, minlength=len(new)).astype(np.int64)
    too_long = lengths > limit_bytes
    if too_long.any():
        kept = ~too_long[rows]
        same, fresh, sizes = same[kept], fresh[kept], sizes[kept]
        changed[too_long] = False
        lengths[too_long] = -1
    return lengths, _write(same, fresh, sizes, new[changed])


def _runs(changed: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Page, first byte and end of each run of changed bytes, in order."""
    # One False on either side of each page, so that a run never reaches into the next page, and each run has two edges:
    # where it begins and where it ends. They alternate.
    framed = np.zeros((len(changed), PAGE_BYTES + 2), dtype=np.bool_)
    framed[:, 1:-1] = changed
    edges = np.flatnonzero(framed[:, 1:] != framed[:, :-1])
    rows, places = np.divmod(edges, PAGE_BYTES + 1)
    return rows[0::2], places[0::2], places[1::2]


def _lengths(
    rows: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each run: bytes that stay before it, bytes that are new, and what both take in the delta."""
    before = np.zeros_like(starts)
    before[1:] = np.where(rows[1:] == rows[:-1], ends[:-1], 0)
    same, fresh = starts - before, ends - starts
    # Two run lengths of one byte each; one above 127 takes a second byte.
    return same, fresh, 2 + (same > 127) + (fresh > 127) + fresh


def _write(same: NDArray[np.int64], fresh: NDArray[np.int64], sizes: NDArray[np.int64], data: Pages) -> bytes:
    out = np.empty(int(sizes.sum()), dtype=np.uint8)
    at = np.cumsum(sizes) - sizes
    at = _uleb128(out, _uleb128(out, at, same), fresh)
    copied = np.cumsum(fresh) - fresh
    # All new bytes at once. A byte's place in `out` is its place in `data`, moved by as much as its run is.
    out[np.repeat(at - copied, fresh) + np.arange(len(data))] = data
    return out.tobytes()


def _uleb128(out: Pages, at: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Write values below 2^14 at their places; where each one ends."""
    # Seven bits per byte, the lowest first; bit 7 says that another byte follows. 4096 takes two bytes.
    long = values > 127
    out[at] = (values & 127) | (long << 7)
    out[at[long] + 1] = values[long] >> 7
    return at + 1 + long
