"""Frames by which a segment learns where a VM is now, and a guest who its router is. Pure: none is sent here.

For the guest: gratuitous ARP and unsolicited neighbour advertisements from its own MAC, where it shares a segment with
others: joined networks, and a network that is extended. Towards the guest: the same for its gateways, but only for one
that has another MAC at the recipient; a guest that notices nothing needs to be told nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from services.node_agent.network.frames import address_bytes, gratuitous_arps, mac_bytes, reverse_arp
from services.node_agent.network.icmpv6 import link_local, router_change, unsolicited_advertisement
from services.node_agent.network.multicast import igmp_query, mld_query
from services.node_agent.network.plan import addresses_of, gateway_mac, guest_mac, routed_at_once
from shared.messages.network import CardNetwork, CardPlan, NetworkGateway, NetworkMode, NetworkPlan
from shared.messages.porting import Side

DELAYS_S: Final = (0.0, 0.05, 0.15, 0.25, 0.35, 0.45)
"""Before each round: at once, and then as QEMU's own announcement: a link that comes up late hears a later one."""


class Frames(NamedTuple):
    """What is sent at a device of this host."""

    device: str
    frames: tuple[bytes, ...]


def announcements(plan: NetworkPlan, side: Side) -> tuple[Frames, ...]:
    """What is to be sent, in every round, at the side where the guest runs now."""
    found = []
    for card in plan.cards:
        device = card.bridge if side is Side.INBOUND else card.donor_bridge
        frames = [*_of_guest(plan, card), *(_to_guest(plan, card.card) if side is Side.INBOUND else ())]
        if device and frames:
            found.append(Frames(device, tuple(frames)))
    return tuple(found)


def stand_in(plan: NetworkPlan, macs: Mapping[str, bytes]) -> tuple[Frames, ...]:
    """At the donor, for guests that are elsewhere: their old neighbours send to this host from now on, by the MACs of
    its bridges; without it they would send to the guest's until their caches find nobody there.
    """
    found = []
    for card in plan.cards:
        mac = macs.get(card.donor_bridge)
        frames: list[bytes] = []
        if mac is None:
            continue
        for text in addresses_of(card.card):
            address = address_bytes(text)
            if len(address) == 4:
                frames += gratuitous_arps(mac, address)
            else:
                frames.append(unsolicited_advertisement(mac, address))
        if frames:
            found.append(Frames(card.donor_bridge, tuple(frames)))
    return tuple(found)


def _of_guest(plan: NetworkPlan, card: CardPlan) -> Iterator[bytes]:
    if plan.terms.carry not in {NetworkMode.JOINED, NetworkMode.EXTEND}:
        return
    mac = mac_bytes(guest_mac(card.card))
    if not card.card.addresses:
        yield reverse_arp(mac)
    for each in card.card.addresses:
        address = address_bytes(each.address)
        if len(address) == 4:
            yield from gratuitous_arps(mac, address)
        else:
            yield unsolicited_advertisement(mac, address)
    # From no card's MAC: switches learn it from the guest's answers, not from the question.
    asker = bytes((mac[0] ^ 2, *mac[1:]))
    yield igmp_query(mac, asker)
    yield mld_query(mac, asker)


def _to_guest(plan: NetworkPlan, card: CardNetwork) -> Iterator[bytes]:
    if not routed_at_once(plan) and not plan.terms.then_announce:
        return
    here = gateway_mac(card)
    if here is None:
        return
    mac, guest = mac_bytes(here), mac_bytes(guest_mac(card))
    changed = [gateway for gateway in card.gateways if gateway.mac != here]
    for gateway in changed:
        address = address_bytes(gateway.address)
        if len(address) == 4:
            yield from gratuitous_arps(mac, address, to=guest)
        else:
            yield unsolicited_advertisement(mac, address, router=True)
    yield from _router_changes(card, changed, mac, guest)


def _router_changes(card: CardNetwork, changed: list[NetworkGateway], mac: bytes, guest: bytes) -> Iterator[bytes]:
    """Where nobody has said by which link-local address the guest knows its router, it is made of the MAC."""
    six = [gateway for gateway in card.gateways if ipaddress.ip_address(gateway.address).version == 6]
    if any(ipaddress.ip_address(gateway.address).is_link_local for gateway in six):
        return
    for old in dict.fromkeys(gateway.mac for gateway in six if gateway in changed):
        old_mac = mac_bytes(old)
        yield from router_change((old_mac, link_local(old_mac)), (mac, link_local(mac)), to=guest)
