"""Asks a segment whether somebody has an address already, without claiming it: ARP probes and DAD's solicitations.

As RFC 5227 and RFC 4862 have it, so that no cache of anybody is changed. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Final

from services.node_agent.network.frames import (
    BROADCAST,
    NO_IPV4,
    NO_MAC,
    Arp,
    ArpOperation,
    EtherType,
    FrameError,
    address_bytes,
    build_arp,
    parse_arp,
)
from services.node_agent.network.icmpv6 import (
    Neighbour,
    build_neighbour,
    multicast_mac,
    parse_neighbour,
    solicited_node,
)

WITHIN_S: Final = 0.6
ROUNDS: Final = 2
_MOST_FRAMES: Final = 4096
_FRAME_BYTES: Final = 2048


def build_probe(mac: bytes, address: bytes) -> bytes:
    """The question of a host of this MAC that does not say who it is."""
    if len(address) == 4:
        return build_arp(
            Arp(
                destination=BROADCAST,
                source=mac,
                operation=ArpOperation.REQUEST,
                sender_mac=mac,
                sender=NO_IPV4,
                target_mac=NO_MAC,
                target=address,
            )
        )
    group = solicited_node(address)
    return build_neighbour(
        Neighbour(
            destination=multicast_mac(group),
            source=mac,
            from_address=bytes(16),
            to_address=group,
            advertises=False,
            target=address,
        )
    )


def read_answer(frame: bytes) -> tuple[bytes, bytes] | None:
    """Which address a frame claims, and for which MAC; None where it claims none."""
    try:
        arp = parse_arp(frame)
    except FrameError:
        pass
    else:
        return None if arp.is_reverse or arp.sender == NO_IPV4 else (arp.sender, arp.sender_mac)
    try:
        told = parse_neighbour(frame)
    except FrameError:
        return None
    return (told.target, told.link or told.source) if told.advertises else None


NOBODYS: Final = {4: "192.0.2.1", 6: "2001:db8:ffff::1"}
"""Addresses for documentation: who claims to have them answers for everybody, as a router with proxy ARP does."""


async def who_has(bridge: str, addresses: Iterable[str], *, within_s: float = WITHIN_S) -> dict[str, set[str]]:
    """The MACs of those who claim each address on this bridge; only addresses that anybody claims. Raises OSError."""
    wanted = {address_bytes(address): address for address in addresses}
    found: dict[str, set[str]] = {}
    if not wanted:
        return found
    loop = asyncio.get_running_loop()
    end_s = loop.time() + within_s
    kinds = {EtherType.ARP if len(each) == 4 else EtherType.IPV6 for each in wanted}
    sockets = [_listener(bridge, kind) for kind in sorted(kinds)]
    try:
        for each in sockets:
            loop.add_reader(each.fileno(), _read, each, wanted, found)
        for number in range(ROUNDS):
            for address in wanted:
                sockets[0].send(build_probe(sockets[0].getsockname()[4], address))
            await asyncio.sleep((end_s - loop.time()) / (ROUNDS - number))
    finally:
        for each in sockets:
            loop.remove_reader(each.fileno())
            each.close()
    return found


def _listener(bridge: str, kind: int) -> socket.socket:
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        listener.bind((bridge, kind))
    except OSError:
        listener.close()
        raise
    return listener


def _read(listener: socket.socket, wanted: dict[bytes, str], found: dict[str, set[str]]) -> None:
    for _ in range(_MOST_FRAMES):
        try:
            frame, place = listener.recvfrom(_FRAME_BYTES)
        except BlockingIOError:
            return
        if place[2] == socket.PACKET_OUTGOING:
            continue
        if (answer := read_answer(frame)) is not None and answer[0] in wanted:
            found.setdefault(wanted[answer[0]], set()).add(answer[1].hex(":"))
