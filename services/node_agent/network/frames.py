"""Ethernet frames by which hosts find each other: ARP and RARP. Pure. Those of IPv6 are in `icmpv6`.

It builds them and reads them; it sends nothing. MAC addresses are 6 bytes, IPv4 addresses 4, IPv6 addresses 16. Every
reader raises FrameError and nothing else, whatever bytes it is given. A frame may have padding at its end.

Of the standards: RFC 826 (ARP), 903 (RARP), 5227 (an announcement is an ARP request).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shared.errors import VmportError

ETHERNET_BYTES: Final = 14
BROADCAST: Final = b"\xff" * 6
NO_MAC: Final = bytes(6)
NO_IPV4: Final = bytes(4)

_ETHERNET: Final = struct.Struct(">6s6sH")
_ARP: Final = struct.Struct(">HHBBH6s4s6s4s")


class FrameError(VmportError):
    """These bytes are not the frame that was expected."""

    code = "bad_frame"


class EtherType(IntEnum):
    """What a frame carries."""

    IPV4 = 0x0800
    ARP = 0x0806
    RARP = 0x8035
    VLAN = 0x8100
    IPV6 = 0x86DD


class ArpOperation(IntEnum):
    """The third and fourth belong to RARP."""

    REQUEST = 1
    REPLY = 2
    REVERSE_REQUEST = 3
    REVERSE_REPLY = 4


@dataclass(frozen=True, slots=True)
class Ethernet:
    """A frame's header, and where its payload is."""

    destination: bytes
    source: bytes
    ethertype: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Arp:
    """An ARP or RARP frame for Ethernet and IPv4."""

    destination: bytes
    source: bytes
    operation: ArpOperation
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes

    @property
    def is_reverse(self) -> bool:
        """Whether it is RARP."""
        return self.operation >= ArpOperation.REVERSE_REQUEST


def mac_bytes(text: str) -> bytes:
    """`52:54:00:…` as bytes. Raises FrameError."""
    try:
        found = bytes.fromhex(text.replace(":", ""))
    except ValueError as error:
        raise FrameError(f"{text!r} is no MAC address") from error
    if len(found) != 6:
        raise FrameError(f"{text!r} is no MAC address")
    return found


def address_bytes(text: str) -> bytes:
    """An IPv4 or IPv6 address as bytes. Raises FrameError."""
    try:
        return ipaddress.ip_address(text).packed
    except ValueError as error:
        raise FrameError(f"{text!r} is no address") from error


def is_group(mac: bytes) -> bool:
    """Whether it means several hosts: multicast or broadcast."""
    return bool(mac[0] & 1)


def build_ethernet(destination: bytes, source: bytes, ethertype: int) -> bytes:
    """A frame's header."""
    return _ETHERNET.pack(destination, source, ethertype)


def parse_ethernet(data: bytes) -> Ethernet:
    """Read the header. Raises FrameError, also for frames that have a length where a type should be."""
    if len(data) < ETHERNET_BYTES:
        raise FrameError(f"a frame of {len(data)} bytes has no Ethernet header")
    destination, source, ethertype = _ETHERNET.unpack_from(data)
    if ethertype < 0x600:
        raise FrameError(f"{ethertype} is a length, not a type")
    if is_group(source):
        raise FrameError("a frame comes from a group of hosts")
    return Ethernet(destination, source, ethertype, data[ETHERNET_BYTES:])


def parse_arp(data: bytes) -> Arp:
    """Read an ARP or RARP frame. Raises FrameError."""
    frame = parse_ethernet(data)
    if frame.ethertype not in {EtherType.ARP, EtherType.RARP} or len(frame.payload) < _ARP.size:
        raise FrameError("not an ARP frame")
    hardware, protocol, mac_size, address_size, code, sender_mac, sender, target_mac, target = _ARP.unpack_from(
        frame.payload
    )
    if (hardware, protocol, mac_size, address_size) != (1, EtherType.IPV4, 6, 4):
        raise FrameError("ARP for another network than IPv4 on Ethernet")
    codes = (3, 4) if frame.ethertype == EtherType.RARP else (1, 2)
    if code not in codes:
        raise FrameError(f"ARP operation {code} does not belong to type {frame.ethertype:#06x}")
    return Arp(
        destination=frame.destination,
        source=frame.source,
        operation=ArpOperation(code),
        sender_mac=sender_mac,
        sender=sender,
        target_mac=target_mac,
        target=target,
    )


def build_arp(arp: Arp) -> bytes:
    """The frame's 42 bytes."""
    ethertype = EtherType.RARP if arp.is_reverse else EtherType.ARP
    return build_ethernet(arp.destination, arp.source, ethertype) + _ARP.pack(
        1, EtherType.IPV4, 6, 4, arp.operation, arp.sender_mac, arp.sender, arp.target_mac, arp.target
    )


def arp_reply(request: Arp, mac: bytes) -> bytes:
    """The answer to a request: its target has this MAC address."""
    return build_arp(
        Arp(
            destination=request.sender_mac,
            source=mac,
            operation=ArpOperation.REPLY,
            sender_mac=mac,
            sender=request.target,
            target_mac=request.sender_mac,
            target=request.sender,
        )
    )


def gratuitous_arps(mac: bytes, address: bytes, *, to: bytes = BROADCAST) -> tuple[bytes, bytes]:
    """Announce an IPv4 address, as a request and as a reply: some hosts believe only the one, some only the other."""
    request, reply = (
        build_arp(
            Arp(
                destination=to,
                source=mac,
                operation=operation,
                sender_mac=mac,
                sender=address,
                target_mac=target_mac,
                target=address,
            )
        )
        for operation, target_mac in ((ArpOperation.REQUEST, NO_MAC), (ArpOperation.REPLY, BROADCAST))
    )
    return request, reply


def reverse_arp(mac: bytes) -> bytes:
    """What QEMU sends for a guest that has just arrived: it names no address, and switches learn the MAC."""
    return build_arp(
        Arp(
            destination=BROADCAST,
            source=mac,
            operation=ArpOperation.REVERSE_REQUEST,
            sender_mac=mac,
            sender=NO_IPV4,
            target_mac=mac,
            target=NO_IPV4,
        )
    )
