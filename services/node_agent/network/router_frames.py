"""What this host says to a guest whose IPv6 router it is: advertisements, and answers to what the guest asks. Pure.

A guest that has its default route by advertisements loses it when no more come, and its addresses, too, if it has made
them itself. So this host advertises as long as it is the router, and says that it is none any more when that ends.

The guest takes its whole segment for neighbours. Those are elsewhere now, behind this host, which answers for them, as
the kernel's `proxy_arp` does for IPv4; for IPv6 the kernel answers for single addresses only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from services.node_agent.network.frames import FrameError, address_bytes, mac_bytes
from services.node_agent.network.icmpv6 import (
    ALL_NODES,
    NO_IPV6,
    AutonomousPrefix,
    Icmpv6Type,
    RouterAdvertisement,
    build_router_advertisement,
    is_link_local,
    link_local,
    multicast_mac,
    neighbour_answer,
    neighbour_of,
    parse_icmpv6,
)
from services.node_agent.network.plan import gateway_mac, guest_mac
from shared.messages.network import CardNetwork

LIFETIME_S: Final = 1800
"""How long the guest keeps this host for its router without hearing of it; three times the longest usual interval."""
VALID_S: Final = 86_400
PREFERRED_S: Final = 14_400
"""How long addresses that the guest has made itself stay valid, and preferred."""


def is_router(card: CardNetwork) -> bool:
    """Whether the card's segment has a router of IPv6."""
    return any(_is_six(gateway.address) for gateway in card.gateways)


def advertisement(card: CardNetwork, *, lifetime_s: int = LIFETIME_S) -> bytes | None:
    """What is said to all on the card's bridge; `lifetime_s` 0 at the end. None where IPv6 has no router."""
    here = gateway_mac(card)
    if here is None or not is_router(card):
        return None
    mac = mac_bytes(here)
    return build_router_advertisement(
        RouterAdvertisement(
            destination=multicast_mac(ALL_NODES),
            source=mac,
            from_address=_own_address(card, mac),
            to_address=ALL_NODES,
            lifetime_s=lifetime_s,
            link=mac if lifetime_s else None,
            prefixes=tuple(_made_by_the_guest(card)) if lifetime_s else (),
        )
    )


def answer(card: CardNetwork, frame: bytes) -> bytes | None:
    """The answer to a frame of the guest; None where it asks for nothing that this host answers here."""
    here = gateway_mac(card)
    try:
        asked = parse_icmpv6(frame)
        if here is None or asked.source not in {mac_bytes(card.mac), mac_bytes(guest_mac(card))}:
            return None
        if asked.type == Icmpv6Type.ROUTER_SOLICITATION:
            return advertisement(card)
        found = neighbour_of(asked)
    except FrameError:
        return None
    # A check for a duplicate comes from no address, and gets no answer: nobody here has the guest's address.
    if found.advertises or found.from_address == NO_IPV6 or not _is_elsewhere(card, found.target):
        return None
    return neighbour_answer(found, mac_bytes(here), router=False)


def _is_elsewhere(card: CardNetwork, target: bytes) -> bool:
    """Whether an address is of the card's segment, and neither the guest's nor this host's own."""
    if is_link_local(target):
        return False
    near = {each.address for each in card.addresses} | {each.address for each in card.gateways}
    address = ipaddress.IPv6Address(target)
    return str(address) not in near and any(
        address in ipaddress.ip_network(each) for each in card.on_link if _is_six(each)
    )


def _own_address(card: CardNetwork, mac: bytes) -> bytes:
    """By which the guest knows its router: the one that was told, else that of the MAC."""
    told = (address_bytes(gateway.address) for gateway in card.gateways)
    return next((each for each in told if is_link_local(each)), link_local(mac))


def _made_by_the_guest(card: CardNetwork) -> Iterator[AutonomousPrefix]:
    """Prefixes of which the guest has an address with its MAC in it. Of others none is offered: the guest would take an
    address that is not its own here.
    """
    ends = {link_local(mac_bytes(mac))[8:] for mac in {card.mac, guest_mac(card)}}
    made = {packed[:8] for each in card.addresses if (packed := address_bytes(each.address))[8:] in ends}
    for each in card.on_link:
        network = ipaddress.ip_network(each)
        if network.version == 6 and network.prefixlen == 64 and network.network_address.packed[:8] in made:
            yield AutonomousPrefix(network.network_address.packed, VALID_S, PREFERRED_S)


def _is_six(text: str) -> bool:
    return ":" in text
