"""A card that moves, its neighbours, and frames of theirs; for tests of network extensions."""

from __future__ import annotations

import ipaddress
import struct

from services.node_agent.network.extension.card import Card
from services.node_agent.network.frames import (
    BROADCAST,
    NO_MAC,
    Arp,
    ArpOperation,
    address_bytes,
    build_arp,
    build_ethernet,
    mac_bytes,
)
from services.node_agent.network.icmpv6 import (
    NO_IPV6,
    Neighbour,
    build_neighbour,
    internet_checksum,
    link_local,
    multicast_mac,
    solicited_node,
)

GUEST, OTHER, ROUTER = (mac_bytes(text) for text in ("52:54:00:aa:bb:01", "52:54:00:aa:bb:02", "0a:58:a9:fe:01:01"))
GUEST_4, OTHER_4, ROUTER_4 = (address_bytes(text) for text in ("10.81.1.7", "10.81.1.8", "10.81.1.1"))
GUEST_6, OTHER_6, ROUTER_6 = (address_bytes(text) for text in ("fd00:81:1::7", "fd00:81:1::8", "fd00:81:1::1"))
ROUTER_LINK = link_local(ROUTER)
FAR_4, FAR_6 = address_bytes("203.0.113.9"), address_bytes("2001:db8:c::9")
CARD = Card(
    macs=frozenset({GUEST}),
    addresses=frozenset({GUEST_4, GUEST_6, link_local(GUEST)}),
    gateways={ROUTER_4: ROUTER, ROUTER_6: ROUTER, ROUTER_LINK: ROUTER},
    on_link=(ipaddress.ip_network("10.81.1.0/24"), ipaddress.ip_network("fd00:81:1::/64")),
)


def ipv4(
    to: bytes, source: bytes, from_address: bytes, to_address: bytes, body: bytes = b"", protocol: int = 6
) -> bytes:
    """An IPv4 packet in a frame."""
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0, from_address, to_address)
    head = head[:10] + internet_checksum(head).to_bytes(2) + head[12:]
    return build_ethernet(to, source, 0x0800) + head + body


def ipv6(
    to: bytes, source: bytes, from_address: bytes, to_address: bytes, body: bytes = b"", following: int = 6
) -> bytes:
    """An IPv6 packet in a frame."""
    head = struct.pack(">IHBB16s16s", 6 << 28, len(body), following, 64, from_address, to_address)
    return build_ethernet(to, source, 0x86DD) + head + body


def udp(source: int, destination: int, data: bytes = b"") -> bytes:
    """A datagram without a checksum."""
    return struct.pack(">HHHH", source, destination, 8 + len(data), 0) + data


def dhcp(source: int, destination: int, mac: bytes) -> bytes:
    """As much of DHCP as names its client."""
    return udp(source, destination, bytes(28) + mac + bytes(202))


def arp(
    operation: ArpOperation,
    source: bytes,
    sender: bytes,
    target: bytes,
    *,
    to: bytes = BROADCAST,
    target_mac: bytes = NO_MAC,
    sender_mac: bytes | None = None,
) -> bytes:
    """An ARP frame, by default a question."""
    return build_arp(
        Arp(
            destination=to,
            source=source,
            operation=operation,
            sender_mac=source if sender_mac is None else sender_mac,
            sender=sender,
            target_mac=target_mac,
            target=target,
        )
    )


def who_has(source: bytes, sender: bytes, target: bytes, *, to: bytes = BROADCAST) -> bytes:
    """An ARP question."""
    return arp(ArpOperation.REQUEST, source, sender, target, to=to)


def solicit(source: bytes, from_address: bytes, target: bytes, *, link: bytes | None = None) -> bytes:
    """A neighbour solicitation, multicast."""
    group = solicited_node(target)
    return build_neighbour(
        Neighbour(
            destination=multicast_mac(group),
            source=source,
            from_address=from_address,
            to_address=group,
            advertises=False,
            target=target,
            link=None if from_address == NO_IPV6 else link or source,
        )
    )


def advertise(to: bytes, source: bytes, target: bytes, *, link: bytes | None = None) -> bytes:
    """A neighbour advertisement, to one host or to a group."""
    return build_neighbour(
        Neighbour(
            destination=to,
            source=source,
            from_address=target,
            to_address=GUEST_6 if to == GUEST else OTHER_6,
            advertises=True,
            target=target,
            link=link or source,
            override=True,
        )
    )


def listeners(to: bytes, source: bytes, from_address: bytes, kind: int) -> bytes:
    """A message about multicast listeners of this ICMPv6 type."""
    options = bytes((58, 0, 5, 2, 0, 0, 1, 0))
    return ipv6(to, source, from_address, address_bytes("ff02::16"), options + bytes((kind,)) + bytes(23), following=0)
