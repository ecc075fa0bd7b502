"""SipHash-2-4 over arrays, against the published vector."""

from __future__ import annotations

import struct

import numpy as np

from services.node_agent.page_codec.exchange.siphash import siphash


def test_siphash_is_siphash() -> None:
    """The published vector for 16 bytes."""
    message = np.frombuffer(bytes(range(16)), dtype="<u8").reshape(1, 2)
    assert siphash(message, bytes(range(16))).tolist() == [struct.unpack("<Q", bytes.fromhex("db9bc2577fcc2a3f"))[0]]
