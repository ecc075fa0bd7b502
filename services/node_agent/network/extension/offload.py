"""The header that the kernel puts before each frame of a TAP device: what of its checksums and segments is still to do.

Pure. It is `struct virtio_net_hdr` (virtio 1.2, 5.1.6), little-endian, 10 bytes. A frame may be a whole TCP send of up
to 64 KiB: the header crosses to the other TAP device, whose kernel finishes the work. What a stranger sends is checked
before a kernel sees it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from services.node_agent.network.frames import ETHERNET_BYTES

OFFLOAD_BYTES: Final = 10
PLAIN: Final = bytes(OFFLOAD_BYTES)
"""Nothing to do."""

_HEADER: Final = struct.Struct("<BBHHHH")
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_NEEDS_CHECKSUM, _CHECKED = 1, 2
_TCP_4, _TCP_6, _WITH_ECN = 1, 4, 0x80
_TCP, _TCP_CHECKSUM_AT, _TCP_BYTES = 6, 16, 20
_VLAN_BYTES: Final = 4


class Offload(NamedTuple):
    """The header's fields, as the kernel names them: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""

    flags: int
    kind: int
    header_bytes: int
    segment_bytes: int
    starts_at: int
    offset: int


def fault_of(header: bytes | memoryview, frame: bytes | memoryview, *, mtu_bytes: int) -> str | None:
    """Why this header does not fit its frame, in a few words; None: it does.

    `frame` may be a view; only its first 54 bytes are looked at. `mtu_bytes` is the largest packet of the segment.
    """
    it = Offload._make(_HEADER.unpack(header))
    size = len(frame)
    if it.flags & ~(_NEEDS_CHECKSUM | _CHECKED):
        return "unknown flags"
    if it.flags & _NEEDS_CHECKSUM and not ETHERNET_BYTES < it.starts_at <= it.starts_at + it.offset <= size - 2:
        return "checksum outside the frame"
    if it.kind & ~_WITH_ECN:
        return _segments_fault(it, bytes(frame[12:54]), size, mtu_bytes)
    if it.kind or it.segment_bytes:
        return "a segment's size without segments"
    return "longer than the segment takes" if size > mtu_bytes + ETHERNET_BYTES + _VLAN_BYTES else None


def _segments_fault(it: Offload, start: bytes, size: int, mtu_bytes: int) -> str | None:
    """`start` begins at the frame's type, 12 bytes into it."""
    kind = it.kind & ~_WITH_ECN
    if kind not in {_TCP_4, _TCP_6}:
        return "segments of an unknown kind"
    if not it.flags & _NEEDS_CHECKSUM or it.offset != _TCP_CHECKSUM_AT or it.starts_at + _TCP_BYTES > size:
        return "segments without a TCP checksum"
    if not 0 < it.segment_bytes <= mtu_bytes:
        return "segments longer than the segment takes"
    if it.header_bytes > size:
        return "headers longer than the frame"
    if len(start) < 12:
        return "segments of no packet"
    if kind == _TCP_4:
        fits = start[:2] == _IPV4 and start[11] == _TCP and it.starts_at == ETHERNET_BYTES + 4 * (start[2] & 15)
    else:
        fits = start[:2] == _IPV6 and it.starts_at >= ETHERNET_BYTES + 40
    return None if fits else "segments of another protocol"
