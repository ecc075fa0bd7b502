"""A stranger's offload header fits its frame, or the frame is dropped."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.network.extension.offload import OFFLOAD_BYTES, PLAIN, fault_of

MTU = 1500


def header(
    flags: int = 1, kind: int = 1, size: int = 54, segment: int = 1460, starts_at: int = 34, offset: int = 16
) -> bytes:
    """By default a TCP send over IPv4."""
    return struct.pack("<BBHHHH", flags, kind, size, segment, starts_at, offset)


def tcp4(size: int) -> bytes:
    """Such a frame."""
    return bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(size - 24)


def tcp6(size: int) -> bytes:
    """Over IPv6."""
    return bytes(12) + b"\x86\xdd\x60" + bytes(5) + b"\x06" + bytes(size - 21)


@pytest.mark.parametrize(
    ("head", "frame"),
    [
        (PLAIN, tcp4(60)),
        (PLAIN, tcp4(MTU + 14)),
        (header(2, 0, 0, 0, 0, 0), tcp4(600)),
        (header(1, 0, 0, 0, 34, 6), tcp4(600)),
        (header(), tcp4(60_000)),
        (header(kind=0x81), tcp4(60_000)),
        (header(kind=4, starts_at=54, size=74), tcp6(60_000)),
    ],
    ids=["plain", "full", "checked", "checksum", "TCP over IPv4", "with ECN", "TCP over IPv6"],
)
def test_what_kernels_say(head: bytes, frame: bytes) -> None:
    """Nothing to do, a checksum or segments to finish: they pass."""
    assert fault_of(head, frame, mtu_bytes=MTU) is None


@pytest.mark.parametrize(
    ("head", "frame", "fault"),
    [
        (PLAIN, tcp4(MTU + 19), "longer"),
        (header(4, 0, 0, 0, 0, 0), tcp4(60), "flags"),
        (header(1, 0, 0, 0, 59, 0), tcp4(60), "outside"),
        (header(1, 0, 0, 0, 65_535, 65_535), tcp4(60), "outside"),
        (header(1, 0, 0, 0, 14, 0), tcp4(60), "outside"),
        (header(0, 0, 0, 9, 0, 0), tcp4(60), "without segments"),
        (header(0, 0x80, 0, 0, 0, 0), tcp4(60), "without segments"),
        (header(kind=3), tcp4(3000), "unknown kind"),
        (header(kind=5), tcp4(3000), "unknown kind"),
        (header(flags=0), tcp4(3000), "TCP checksum"),
        (header(offset=6), tcp4(3000), "TCP checksum"),
        (header(segment=0), tcp4(3000), "segments longer"),
        (header(segment=1501), tcp4(3000), "segments longer"),
        (header(size=3001), tcp4(3000), "headers longer"),
        (header(kind=4), tcp4(3000), "another protocol"),
        (header(), tcp6(3000), "another protocol"),
        (header(starts_at=38), tcp4(3000), "another protocol"),
    ],
)
def test_what_does_not_fit(head: bytes, frame: bytes, fault: str) -> None:
    """It is named in a few words."""
    assert fault in (fault_of(head, frame, mtu_bytes=MTU) or "")


@given(st.binary(min_size=OFFLOAD_BYTES, max_size=OFFLOAD_BYTES), st.binary(min_size=14, max_size=200))
def test_a_checksum_is_always_within_its_frame(head: bytes, frame: bytes) -> None:
    """Whatever a stranger says: what passes has its checksum field inside the frame, and no header beyond it."""
    if fault_of(head, frame, mtu_bytes=MTU) is None:
        flags, kind, size, _, starts_at, offset = struct.unpack("<BBHHHH", head)
        assert not flags & 1 or 14 < starts_at <= starts_at + offset <= len(frame) - 2
        assert not kind or size <= len(frame)
