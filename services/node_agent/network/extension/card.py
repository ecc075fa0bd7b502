"""Card: what identifies a network card on its segment, as bytes. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.node_agent.network.frames import address_bytes, mac_bytes
from services.node_agent.network.icmpv6 import is_link_local, link_local
from shared.messages.network import CardNetwork

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Card:
    """What identifies a card, as bytes. `gateways` has the MAC of each address; `on_link` is empty where unknown."""

    macs: frozenset[bytes]
    addresses: frozenset[bytes]
    gateways: Mapping[bytes, bytes] = field(default_factory=dict)
    on_link: tuple[Network, ...] = ()
    mtu_bytes: int = 1500

    @classmethod
    def of(cls, card: CardNetwork) -> Card:
        """From what was agreed."""
        macs = {mac_bytes(text) for text in (card.mac, card.guest_mac) if text is not None}
        return cls(
            macs=frozenset(macs),
            addresses=frozenset(address_bytes(each.address) for each in card.addresses)
            | {link_local(mac) for mac in macs},
            gateways={address_bytes(each.address): mac_bytes(each.mac) for each in card.gateways},
            on_link=tuple(ipaddress.ip_network(text) for text in card.on_link),
            mtu_bytes=card.mtu,
        )

    @property
    def mac(self) -> bytes:
        """One MAC: the card's only one, mostly."""
        return min(self.macs)

    def is_on_link(self, address: bytes) -> bool:
        """Whether an address belongs to the card's segment; so does any of a family whose prefixes are not known."""
        if address in self.addresses or is_link_local(address):
            return True
        version = 4 if len(address) == 4 else 6
        networks = [each for each in self.on_link if each.version == version]
        return not networks or any(ipaddress.ip_address(address) in each for each in networks)
