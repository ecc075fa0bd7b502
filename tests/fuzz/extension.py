"""Target `extension`: a network extension against a hostile other end.

Promises: a payload is whole records or BatchError, and what is read can be written again. The filter judges every frame
and never raises; by bytes and by view alike. A frame that passes to the recipient is not from the card's MAC, and one
that passes to the donor is. A header that passes has its checksum inside the frame. Readers raise FrameError only.
"""

from __future__ import annotations

import struct

from services.node_agent.network.extension.filter import CardFilter, is_control
from services.node_agent.network.extension.offload import OFFLOAD_BYTES, PLAIN, fault_of
from services.node_agent.network.extension.verdict import PASSED, Towards
from services.node_agent.network.extension.wire import BatchError, decode, encode
from services.node_agent.network.frames import FrameError, parse_arp, parse_ethernet, reverse_arp
from services.node_agent.network.icmpv6 import parse_icmpv6, parse_neighbour, parse_router_advertisement
from tests.fuzz.source import Source, damaged
from tests.support.card_frames import (
    CARD,
    FAR_4,
    GUEST,
    GUEST_4,
    GUEST_6,
    OTHER_6,
    ROUTER,
    ROUTER_4,
    advertise,
    dhcp,
    ipv4,
    listeners,
    solicit,
    who_has,
)

FRAMES = (
    ipv4(GUEST, ROUTER, FAR_4, GUEST_4, bytes(20)),
    ipv4(b"\xff" * 6, ROUTER, ROUTER_4, b"\xff" * 4, dhcp(67, 68, GUEST), 17),
    who_has(GUEST, GUEST_4, ROUTER_4),
    reverse_arp(GUEST),
    solicit(ROUTER, OTHER_6, GUEST_6),
    advertise(ROUTER, GUEST, GUEST_6),
    listeners(ROUTER, GUEST, GUEST_6, 143),
)
HEADERS = (PLAIN, struct.pack("<BBHHHH", 1, 1, 54, 1448, 34, 16), struct.pack("<BBHHHH", 1, 4, 74, 1428, 54, 16))


def check(data: bytes) -> None:
    """One input; raises when a promise is broken."""
    source = Source(data)
    if source.one_in(2):
        payload = source.rest()
    else:
        records = []
        while source.left:
            frame = source.pick(FRAMES)
            records.append(source.pick(HEADERS) + (damaged(source, frame) or frame).ljust(14, b"\0"))
        payload = encode(records)
        payload = damaged(source, payload) if source.one_in(4) else payload
    try:
        found = decode(payload)
    except BatchError:
        return
    assert encode(found) == payload
    filters = CardFilter(CARD), CardFilter(CARD)
    for record in found:
        _check_record(record, filters)


def _check_record(record: memoryview, filters: tuple[CardFilter, CardFilter]) -> None:
    header, frame = bytes(record[:OFFLOAD_BYTES]), record[OFFLOAD_BYTES:]
    if fault_of(header, frame, mtu_bytes=1500) is None:
        flags, _, _, _, starts_at, offset = struct.unpack("<BBHHHH", header)
        assert not flags & 1 or starts_at + offset + 2 <= len(frame)
    for towards in Towards:
        by_view, by_bytes = filters[0].judge(frame, towards), filters[1].judge(bytes(frame), towards)
        assert by_view == by_bytes
        if by_view is PASSED:
            assert (bytes(frame[6:12]) == GUEST) is (towards is Towards.DONOR)
            is_control(frame)
    for read in (parse_ethernet, parse_arp, parse_icmpv6, parse_neighbour, parse_router_advertisement):
        try:
            read(bytes(frame))
        except FrameError:
            continue


def seeds() -> list[bytes]:
    """Inputs to begin with."""
    return [encode([header + frame for frame in FRAMES for header in HEADERS]), bytes(40), bytes(range(200))]
