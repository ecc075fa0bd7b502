"""XBZRLE applied as QEMU's `xbzrle_decode_buffer` does: the reference that the encoder is held against."""

from __future__ import annotations

import numpy as np

from services.node_agent.page_codec.memory.xbzrle import PAGE_BYTES, Pages


def apply_delta(delta: bytes | memoryview, page: Pages) -> None:
    """Change `page` (4096 bytes) in place, as QEMU does. Raises ValueError for what QEMU would refuse."""
    at = place = 0
    while at < len(delta):
        same, begin = _read(delta, at)
        news, begin = _read(delta, begin)
        place += same
        if (at and not same) or not news or place + news > PAGE_BYTES or begin + news > len(delta):
            raise ValueError("not an XBZRLE delta of a page")
        page[place : place + news] = np.frombuffer(delta[begin : begin + news], dtype=np.uint8)
        at, place = begin + news, place + news


def _read(delta: bytes | memoryview, at: int) -> tuple[int, int]:
    if at < len(delta) and delta[at] < 128:
        return delta[at], at + 1
    if at + 1 < len(delta) and delta[at + 1] < 128:
        return (delta[at] & 127) | delta[at + 1] << 7, at + 2
    raise ValueError("not an XBZRLE delta of a page")
