"""Which frames of the guest's echoes passed a host's devices when, by the kernel's clock: sockets and their filter."""

from __future__ import annotations

import ctypes
import select
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tests.bench.network_switch_bench.client import PORT, SOURCE_PORT

_ETH_P_ALL: Final = 3
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_STAMP: Final = struct.Struct("@qq")
_OUTGOING: Final = 4
_ASKED, _REPLIED = struct.pack(">HH", SOURCE_PORT, PORT), struct.pack(">HH", PORT, SOURCE_PORT)
_SHORTEST: Final = 42
"""An IPv4 packet's UDP header ends there."""
_LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_ALL, _NONE = 20, 21
# ARP, RARP, UDP echo over either family, and ICMPv6. Targets of jumps are counted from the line after.
_FILTER: Final = (
    (_LOAD_HALF, None, None, 12),
    (_IF_EQUAL, _ALL, 2, 0x0806),
    (_IF_EQUAL, _ALL, 3, 0x8035),
    (_IF_EQUAL, 5, 4, 0x0800),
    (_IF_EQUAL, 12, _NONE, 0x86DD),
    (_LOAD_BYTE, None, None, 23),
    (_IF_EQUAL, 7, _NONE, 17),
    (_LOAD_HALF, None, None, 34),
    (_IF_EQUAL, _ALL, 9, 7),
    (_LOAD_HALF, None, None, 36),
    (_IF_EQUAL, _ALL, _NONE, 7),
    (_RETURN, None, None, 0),
    (_LOAD_BYTE, None, None, 20),
    (_IF_EQUAL, _ALL, 14, 58),
    (_IF_EQUAL, 15, _NONE, 17),
    (_LOAD_HALF, None, None, 54),
    (_IF_EQUAL, _ALL, 17, 7),
    (_LOAD_HALF, None, None, 56),
    (_IF_EQUAL, _ALL, _NONE, 7),
    (_RETURN, None, None, 0),
    (_RETURN, None, None, 0xFFFF),
    (_RETURN, None, None, 0),
)


class Kind(StrEnum):
    """What a frame is."""

    RARP = "rarp"
    ARP = "arp"
    DISCOVERY = "neighbour discovery"
    REQUEST4 = "request ipv4"
    REPLY4 = "reply ipv4"
    REQUEST6 = "request ipv6"
    REPLY6 = "reply ipv6"


@dataclass(frozen=True)
class Frame:
    """A frame at a host's device; `out`: the host sent it there. Nanoseconds since 1970."""

    at_ns: int
    host: str
    device: str
    out: bool
    kind: Kind


def kind_of(frame: bytes) -> Kind | None:
    """None for what is none of these. Pure."""
    ethertype = frame[12:14]
    if len(frame) < _SHORTEST and ethertype not in {b"\x08\x06", b"\x80\x35"}:
        return None
    if ethertype in {b"\x08\x06", b"\x80\x35"}:
        return Kind.ARP if ethertype == b"\x08\x06" else Kind.RARP
    four = ethertype == b"\x08\x00"
    protocol = frame[23 if four else 20]
    if not four and protocol == 58:
        return Kind.DISCOVERY
    if protocol != 17:
        return None
    ports = frame[34:38] if four else frame[54:58]
    if ports == _ASKED:
        return Kind.REQUEST4 if four else Kind.REQUEST6
    if ports == _REPLIED:
        return Kind.REPLY4 if four else Kind.REPLY6
    return None  # another client's


def listener() -> socket.socket:
    """A socket that has all of this thread's namespace's frames that pass the filter."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL))
    lines = []
    for number, (code, equal, other, value) in enumerate(_FILTER):
        jumps = [0 if each is None else each - number - 1 for each in (equal, other)]
        lines.append(struct.pack("@HBBI", code, *jumps, value))
    program = ctypes.create_string_buffer(b"".join(lines))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(lines), ctypes.addressof(program)))
    made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return made


def listen(listeners: Mapping[str, socket.socket], pipe: Any) -> None:
    """Collect until told to end; the frames are the answer."""
    found: list[Frame] = []
    hosts = {each.fileno(): host for host, each in listeners.items()}
    sockets = {each.fileno(): each for each in listeners.values()}
    while True:
        readable, _, _ = select.select([pipe.fileno(), *sockets], [], [])
        for number in readable:
            if number in sockets:
                _take(sockets[number], hosts[number], found)
        if pipe.fileno() in readable and pipe.recv() is None:
            pipe.send(found)
            return


def _take(listener: socket.socket, host: str, found: list[Frame]) -> None:
    for _ in range(256):
        try:
            data, control, _, place = listener.recvmsg(128, 128)
        except BlockingIOError:
            return
        if (kind := kind_of(data)) is not None:
            seconds, nanoseconds = _STAMP.unpack_from(control[0][2])
            found.append(Frame(seconds * 1_000_000_000 + nanoseconds, host, place[0], place[2] == _OUTGOING, kind))
