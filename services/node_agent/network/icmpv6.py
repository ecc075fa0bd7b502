"""Frames of IPv6 by which hosts find each other: neighbour discovery and router advertisements. Pure.

It builds and reads them, as `frames` does those of IPv4, and raises FrameError and nothing else. Checksums are
computed, and checked when they are read. Of the standards: RFC 4861, and 8319 for a router's lifetime of up to 65535 s.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from services.node_agent.network.frames import EtherType, FrameError, build_ethernet, parse_ethernet

IPV6_BYTES: Final = 40
NO_IPV6: Final = bytes(16)
ALL_NODES: Final = ipaddress.IPv6Address("ff02::1").packed
ICMPV6: Final = 58
_HOP_LIMIT: Final = 255
"""Of neighbour discovery: what came through a router has less, and is not believed."""

_IPV6: Final = struct.Struct(">IHBB16s16s")
_ADVERTISEMENT: Final = struct.Struct(">BBHBBHII")
_NEIGHBOUR: Final = struct.Struct(">BBHI16s")
_PREFIX: Final = struct.Struct(">BBBBIII16s")
_PREFIX_OPTION, _AUTONOMOUS_BIT = 3, 0x40
_OPTION_UNIT_BYTES: Final = 8
_ROUTER_BIT, _SOLICITED_BIT, _OVERRIDE_BIT = 1 << 31, 1 << 30, 1 << 29
_MANAGED_BIT, _OTHER_BIT = 0x80, 0x40


class Icmpv6Type(IntEnum):
    """Messages of ICMPv6 that are known by name here."""

    MULTICAST_QUERY = 130
    MULTICAST_REPORT = 131
    MULTICAST_DONE = 132
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    NEIGHBOUR_SOLICITATION = 135
    NEIGHBOUR_ADVERTISEMENT = 136
    REDIRECT = 137
    MULTICAST_REPORT_2 = 143


class LinkOption(IntEnum):
    """Options that carry a MAC address."""

    SOURCE = 1
    TARGET = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Icmpv6:
    """An ICMPv6 message that lies directly behind the IPv6 header."""

    destination: bytes
    source: bytes
    from_address: bytes
    to_address: bytes
    type: int
    body: bytes
    """Type, code and checksum included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A neighbour solicitation or advertisement. `link` is the MAC address of its option, where it has one."""

    destination: bytes
    source: bytes
    from_address: bytes
    to_address: bytes
    advertises: bool
    target: bytes
    link: bytes | None = None
    router: bool = False
    solicited: bool = False
    override: bool = False


@dataclass(frozen=True, slots=True)
class AutonomousPrefix:
    """A prefix of /64 of which hosts make addresses themselves, and how long these stay valid. It says nothing of
    whether the prefix is on the link.
    """

    network: bytes
    valid_s: int
    preferred_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterAdvertisement:
    """A router advertisement. `lifetime_s` 0: no default router any more. What is read is without its prefixes."""

    destination: bytes
    source: bytes
    from_address: bytes
    to_address: bytes
    lifetime_s: int
    hop_limit: int = 0
    managed: bool = False
    other: bool = False
    link: bytes | None = None
    prefixes: tuple[AutonomousPrefix, ...] = ()


def multicast_mac(address: bytes) -> bytes:
    """Where frames for an IPv6 multicast address go (RFC 2464, 7)."""
    return b"\x33\x33" + address[-4:]


def solicited_node(address: bytes) -> bytes:
    """The multicast address at which an IPv6 address is asked for."""
    return ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address[-3:]


def link_local(mac: bytes) -> bytes:
    """The IPv6 link-local address that is made of a MAC address (RFC 4291, appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def is_link_local(address: bytes) -> bool:
    """Whether an IPv6 address is within fe80::/10."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def internet_checksum(data: bytes) -> int:
    """The ones' complement of the ones' complement sum of all 16-bit words (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse_icmpv6(data: bytes) -> Icmpv6:
    """Read an ICMPv6 message without headers before it; its checksum must be right. Raises FrameError."""
    frame = parse_ethernet(data)
    if frame.ethertype != EtherType.IPV6 or len(frame.payload) < IPV6_BYTES:
        raise FrameError("not an IPv6 frame")
    version, length, following, hop_limit, from_address, to_address = _IPV6.unpack_from(frame.payload)
    body = frame.payload[IPV6_BYTES : IPV6_BYTES + length]
    if version >> 28 != 6 or following != ICMPV6 or len(body) != length or length < 4:
        raise FrameError("not an ICMPv6 message")
    if internet_checksum(_pseudo_header(from_address, to_address, length) + body):
        raise FrameError("wrong checksum of an ICMPv6 message")
    if Icmpv6Type.ROUTER_SOLICITATION <= body[0] <= Icmpv6Type.REDIRECT and (hop_limit != _HOP_LIMIT or body[1]):
        raise FrameError("neighbour discovery that came through a router, or of an unknown code")
    return Icmpv6(
        destination=frame.destination,
        source=frame.source,
        from_address=from_address,
        to_address=to_address,
        type=body[0],
        body=body,
    )


def parse_neighbour(data: bytes) -> Neighbour:
    """Read a neighbour solicitation or advertisement. Raises FrameError."""
    return neighbour_of(parse_icmpv6(data))


def neighbour_of(message: Icmpv6) -> Neighbour:
    """The same, of a message that was read. Raises FrameError."""
    advertises = message.type == Icmpv6Type.NEIGHBOUR_ADVERTISEMENT
    if not advertises and message.type != Icmpv6Type.NEIGHBOUR_SOLICITATION:
        raise FrameError(f"ICMPv6 type {message.type} is no neighbour discovery")
    if len(message.body) < _NEIGHBOUR.size:
        raise FrameError("neighbour discovery without a target")
    *_, flags, target = _NEIGHBOUR.unpack_from(message.body)
    option = LinkOption.TARGET if advertises else LinkOption.SOURCE
    return Neighbour(
        destination=message.destination,
        source=message.source,
        from_address=message.from_address,
        to_address=message.to_address,
        advertises=advertises,
        target=target,
        link=_link_option(message.body[_NEIGHBOUR.size :], option),
        router=advertises and bool(flags & _ROUTER_BIT),
        solicited=advertises and bool(flags & _SOLICITED_BIT),
        override=advertises and bool(flags & _OVERRIDE_BIT),
    )


def build_neighbour(it: Neighbour) -> bytes:
    """The frame: 78 bytes, or 86 with a MAC address inside."""
    flags = it.router * _ROUTER_BIT | it.solicited * _SOLICITED_BIT | it.override * _OVERRIDE_BIT
    kind = Icmpv6Type.NEIGHBOUR_ADVERTISEMENT if it.advertises else Icmpv6Type.NEIGHBOUR_SOLICITATION
    body = _NEIGHBOUR.pack(kind, 0, 0, flags if it.advertises else 0, it.target)
    body += _option(LinkOption.TARGET if it.advertises else LinkOption.SOURCE, it.link)
    return _build_icmpv6(it.destination, it.source, it.from_address, it.to_address, body)


def neighbour_answer(asked: Neighbour, mac: bytes, *, router: bool) -> bytes:
    """The answer to a solicitation of a host that has an address: its target has this MAC address."""
    return build_neighbour(
        Neighbour(
            destination=asked.link or asked.source,
            source=mac,
            from_address=asked.target,
            to_address=asked.from_address,
            advertises=True,
            target=asked.target,
            link=mac,
            router=router,
            solicited=True,
            override=True,
        )
    )


def unsolicited_advertisement(mac: bytes, address: bytes, *, router: bool = False) -> bytes:
    """Announce an IPv6 address to all nodes of the link: caches are overridden."""
    return build_neighbour(
        Neighbour(
            destination=multicast_mac(ALL_NODES),
            source=mac,
            from_address=address,
            to_address=ALL_NODES,
            advertises=True,
            target=address,
            link=mac,
            router=router,
            override=True,
        )
    )


def parse_router_advertisement(data: bytes) -> RouterAdvertisement:
    """Read a router advertisement. Raises FrameError."""
    message = parse_icmpv6(data)
    if message.type != Icmpv6Type.ROUTER_ADVERTISEMENT or len(message.body) < _ADVERTISEMENT.size:
        raise FrameError("not a router advertisement")
    if not is_link_local(message.from_address):
        raise FrameError("a router advertises from an address that is not link-local")
    _, _, _, hop_limit, flags, lifetime_s, _, _ = _ADVERTISEMENT.unpack_from(message.body)
    return RouterAdvertisement(
        destination=message.destination,
        source=message.source,
        from_address=message.from_address,
        to_address=message.to_address,
        lifetime_s=lifetime_s,
        hop_limit=hop_limit,
        managed=bool(flags & _MANAGED_BIT),
        other=bool(flags & _OTHER_BIT),
        link=_link_option(message.body[_ADVERTISEMENT.size :], LinkOption.SOURCE),
    )


def build_router_advertisement(it: RouterAdvertisement) -> bytes:
    """The frame."""
    flags = it.managed * _MANAGED_BIT | it.other * _OTHER_BIT
    body = _ADVERTISEMENT.pack(Icmpv6Type.ROUTER_ADVERTISEMENT, 0, 0, it.hop_limit, flags, it.lifetime_s, 0, 0)
    body += _option(LinkOption.SOURCE, it.link)
    for each in it.prefixes:
        body += _PREFIX.pack(_PREFIX_OPTION, 4, 64, _AUTONOMOUS_BIT, each.valid_s, each.preferred_s, 0, each.network)
    return _build_icmpv6(it.destination, it.source, it.from_address, it.to_address, body)


def router_change(
    old: tuple[bytes, bytes], new: tuple[bytes, bytes], *, to: bytes = b"\x33\x33\x00\x00\x00\x01"
) -> tuple[bytes, bytes]:
    """Tell a guest that its default router is another one: the old one ends, then the new one begins.

    `old` and `new` are a router's MAC and link-local address. `to` is the guest's MAC, or all nodes.
    """
    ends, begins = (
        build_router_advertisement(
            RouterAdvertisement(
                destination=to,
                source=mac,
                from_address=address,
                to_address=ALL_NODES,
                lifetime_s=lifetime_s,
                link=mac if lifetime_s else None,
            )
        )
        for (mac, address), lifetime_s in ((old, 0), (new, 65_535))
    )
    return ends, begins


def _build_icmpv6(destination: bytes, source: bytes, from_address: bytes, to_address: bytes, body: bytes) -> bytes:
    """`body` has zeros where its checksum is to be."""
    checksum = internet_checksum(_pseudo_header(from_address, to_address, len(body)) + body)
    return b"".join(
        (
            build_ethernet(destination, source, EtherType.IPV6),
            _IPV6.pack(6 << 28, len(body), ICMPV6, _HOP_LIMIT, from_address, to_address),
            body[:2],
            checksum.to_bytes(2),
            body[4:],
        )
    )


def _pseudo_header(from_address: bytes, to_address: bytes, length: int) -> bytes:
    return from_address + to_address + struct.pack(">II", length, ICMPV6)


def _option(kind: LinkOption, mac: bytes | None) -> bytes:
    return b"" if mac is None else bytes((kind, 1)) + mac


def _link_option(options: bytes, kind: LinkOption) -> bytes | None:
    """The MAC address of the first option of this kind. Raises FrameError where the options do not add up."""
    found = None
    while options:
        if len(options) < 2 or not options[1] or len(options) < options[1] * _OPTION_UNIT_BYTES:
            raise FrameError("an option of neighbour discovery is cut off")
        if options[0] == kind and found is None:
            found = options[2:8]
        options = options[options[1] * _OPTION_UNIT_BYTES :]
    return found
