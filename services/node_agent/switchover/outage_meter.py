"""The outage of a port as a neighbour of the guest sees it: ARP frames, the kernel's filter, and the bookkeeping. Pure.

Probes are those of RFC 5227: the sender's IPv4 address is 0.0.0.0, so nobody's cache changes. Replies carry no number;
a silence is therefore from the first probe sent after one reply to the next reply. That is too short by up to one
interval (more only where the prober itself is held up), and too long by a frame's way at most. Times are seconds of any
one clock.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Address

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
FRAME_BYTES = 64
"""Of a frame nothing beyond is looked at."""
MARGIN_S = 1.0
"""A silence counts if it ends later than so long before the pause was heard of."""
STEADY_REPLIES = 5
"""So many replies after the pause, and the guest is reached again."""

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_ETHERNET_IPV4 = (1, ETH_P_IP, 6, 4)
_REQUEST, _REPLY = 1, 2
_IPV4_SOURCE = slice(26, 30)
_UNKNOWN_MAC = bytes(6)
_NO_ADDRESS = IPv4Address(0)

_MOST_CANDIDATES = 8
_MOST_SILENCES = 4096
_MOST_UNANSWERED = 4096

# Classic BPF: load from the frame, compare, return how much of the frame to keep.
_LOAD_WORD, _LOAD_HALF, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_INSTRUCTION = struct.Struct("@HBBI")
_SOURCE_MAC_AT, _TYPE_AT = 6, 12


def parse_mac(text: str) -> bytes:
    """Six bytes of `52:54:00:…`. Raises `ValueError`."""
    mac = bytes.fromhex(text.replace(":", ""))
    if len(mac) != len(_UNKNOWN_MAC):
        raise ValueError(f"{text!r} is not a MAC address")
    return mac


def probe_frame(source: bytes, guest: bytes, address: IPv4Address) -> bytes:
    """Who has `address`? To the guest's own MAC address only: bridges must find it as they must for a client."""
    arp = _ARP.pack(*_ARP_ETHERNET_IPV4, _REQUEST, source, _NO_ADDRESS.packed, _UNKNOWN_MAC, address.packed)
    return _ETHERNET.pack(guest, source, ETH_P_ARP) + arp


@dataclass(frozen=True, slots=True)
class Heard:
    """What a frame of the guest tells. `answers` is the MAC address that it answers, None if it is no ARP reply."""

    address: IPv4Address
    answers: bytes | None = None


def read_frame(frame: bytes, guest: bytes) -> Heard | None:
    """Read a frame that the guest sent; None for any other one, and for one that names no address of the guest."""
    if len(frame) < _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(frame)
    if source != guest:
        return None
    if kind == ETH_P_ARP and len(frame) >= _ETHERNET.size + _ARP.size:
        *form, operation, sender, sender_address, target, _ = _ARP.unpack_from(frame, _ETHERNET.size)
        if tuple(form) != _ARP_ETHERNET_IPV4 or sender != guest:
            return None
        return _heard(sender_address, target if operation == _REPLY else None)
    if kind == ETH_P_IP and len(frame) >= _IPV4_SOURCE.stop:
        return _heard(frame[_IPV4_SOURCE], None)
    return None


def _heard(packed: bytes, answers: bytes | None) -> Heard | None:
    address = IPv4Address(packed)
    if address == _NO_ADDRESS or address.is_multicast or address.is_loopback:
        return None
    return Heard(address, answers)


def neighbours(table: str, guest: str, bridge: str) -> tuple[IPv4Address, ...]:
    """The guest's addresses by the kernel's neighbour table, in the form of `/proc/net/arp`."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) == 6 and fields[3].lower() == guest.lower() and fields[5] == bridge:
            found.append(IPv4Address(fields[0]))
    return tuple(found)


def socket_filter(guest: bytes, *, only_arp: bool) -> bytes:
    """A classic BPF program for a raw packet socket: the head of every frame, or ARP frame, that the guest sent."""
    tests = [
        (_LOAD_WORD, _SOURCE_MAC_AT, int.from_bytes(guest[:4], "big")),
        (_LOAD_HALF, _SOURCE_MAC_AT + 4, int.from_bytes(guest[4:], "big")),
    ]
    if only_arp:
        tests.append((_LOAD_HALF, _TYPE_AT, ETH_P_ARP))
    program = []
    for number, (load, offset, value) in enumerate(tests):
        # From here to the last instruction, over the tests that follow and the `keep`.
        to_drop = 2 * (len(tests) - number - 1) + 1
        program += [(load, 0, 0, offset), (_JUMP_IF_EQUAL, 0, to_drop, value)]
    program += [(_RETURN, 0, 0, FRAME_BYTES), (_RETURN, 0, 0, 0)]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


class OutageMeter:
    """What was sent and what came back. An address counts as the guest's only when the guest has answered for it."""

    def __init__(self, guest: bytes) -> None:
        self._guest = guest
        self._candidates: deque[IPv4Address] = deque(maxlen=_MOST_CANDIDATES)
        self._sources: deque[bytes] = deque(maxlen=2)
        self._unanswered: deque[float] = deque()
        self._silences: deque[tuple[float, float]] = deque(maxlen=_MOST_SILENCES)
        self.address: IPv4Address | None = None

    def learn(self, address: IPv4Address) -> None:
        """This may be an address of the guest's; a router's frames carry foreign ones, too."""
        if self.address is None and address not in self._candidates:
            self._candidates.append(address)

    def next_probe(self, source: bytes) -> bytes | None:
        """The frame to send from this MAC address; None while nothing is known. Candidates take turns."""
        target = self.address
        if target is None:
            if not self._candidates:
                return None
            target = self._candidates[0]
            self._candidates.rotate(-1)
        if source not in self._sources:
            self._sources.append(source)
        return probe_frame(source, self._guest, target)

    def sent(self, at_s: float) -> None:
        """A probe went out."""
        if self.address is None:
            return
        self._unanswered.append(at_s)
        if len(self._unanswered) > _MOST_UNANSWERED:
            del self._unanswered[1]  # the first is what a silence is counted from

    def received(self, frame: bytes, at_s: float) -> None:
        """A frame came; `at_s` is the kernel's time of it, so probes may be known that went out later."""
        heard = read_frame(frame, self._guest)
        if heard is None:
            return
        if heard.answers is None or heard.answers not in self._sources:
            self.learn(heard.address)
            return
        if self.address is None:
            self.address = heard.address
        if heard.address != self.address or not self._unanswered or self._unanswered[0] > at_s:
            return
        self._silences.append((self._unanswered[0], at_s))
        while self._unanswered and self._unanswered[0] <= at_s:
            self._unanswered.popleft()

    def steady(self, paused_s: float) -> bool:
        """Whether the guest has answered often enough since it was paused here, which is from the recipient."""
        return sum(1 for _, until_s in self._silences if until_s > paused_s) >= STEADY_REPLIES

    def outage_s(self, paused_s: float) -> float | None:
        """The longest silence around the switchover; None where nothing was answered before or after the pause."""
        if not any(until_s <= paused_s for _, until_s in self._silences):
            return None
        if not any(until_s > paused_s for _, until_s in self._silences):
            return None
        return max(until_s - since_s for since_s, until_s in self._silences if until_s > paused_s - MARGIN_S)
