"""SipHash-2-4 over arrays (Aumasson and Bernstein, 2012): short keyed ids of contents, all of a batch at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.node_agent.page_codec.digests import Digests


def siphash(words: Digests, key: bytes) -> NDArray[np.uint64]:
    """SipHash-2-4 of 16-byte messages, all at once."""
    k0, k1 = np.frombuffer(key, dtype="<u8").astype(np.uint64)
    shape = len(words)
    v0 = np.full(shape, k0 ^ np.uint64(0x736F6D6570736575))
    v1 = np.full(shape, k1 ^ np.uint64(0x646F72616E646F6D))
    v2 = np.full(shape, k0 ^ np.uint64(0x6C7967656E657261))
    v3 = np.full(shape, k1 ^ np.uint64(0x7465646279746573))
    state = (v0, v1, v2, v3)
    for word in (words[:, 0], words[:, 1], np.uint64(16 << 56)):
        v3 ^= word
        _rounds(state, 2)
        v0 ^= word
    v2 ^= np.uint64(0xFF)
    _rounds(state, 4)
    hashes: NDArray[np.uint64] = v0 ^ v1 ^ v2 ^ v3
    return hashes


def _rounds(state: tuple[NDArray[np.uint64], ...], count: int) -> None:
    v0, v1, v2, v3 = state
    for _ in range(count):
        v0 += v1
        _rotate(v1, 13)
        v1 ^= v0
        _rotate(v0, 32)
        v2 += v3
        _rotate(v3, 16)
        v3 ^= v2
        v0 += v3
        _rotate(v3, 21)
        v3 ^= v0
        v2 += v1
        _rotate(v1, 17)
        v1 ^= v2
        _rotate(v2, 32)


def _rotate(words: NDArray[np.uint64], by: int) -> None:
    words[:] = (words << np.uint64(by)) | (words >> np.uint64(64 - by))
