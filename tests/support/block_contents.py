"""Contents of 4 KiB that tests tell apart."""

from __future__ import annotations

from services.node_agent.page_codec.contents import CONTENT_BYTES

KEY = bytes(range(32))


def block(number: int) -> bytes:
    return number.to_bytes(4, "big") * (CONTENT_BYTES // 4)
