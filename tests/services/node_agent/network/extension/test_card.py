"""What was agreed for a card, as the filter needs it."""

from __future__ import annotations

from services.node_agent.network.extension.card import Card
from services.node_agent.network.frames import address_bytes, mac_bytes
from services.node_agent.network.icmpv6 import link_local
from shared.messages.network import CardAddress, CardNetwork, NetworkGateway

MAC, OTHER_MAC, ROUTER = "52:54:00:aa:bb:01", "52:54:00:aa:bb:02", "0a:58:a9:fe:01:01"
AGREED = CardNetwork(
    mac=MAC,
    guest_mac=OTHER_MAC,
    addresses=(CardAddress(address="10.81.1.7"), CardAddress(address="fd00:81:1::7")),
    on_link=("10.81.1.0/24",),
    gateways=(NetworkGateway(address="10.81.1.1", mac=ROUTER),),
    mtu=1400,
)


def test_all_that_was_agreed() -> None:
    """Both MACs, all addresses and the link-local ones of the MACs, the gateways, the MTU."""
    card = Card.of(AGREED)
    macs = {mac_bytes(MAC), mac_bytes(OTHER_MAC)}
    assert card.macs == macs
    assert card.mac in macs
    assert card.addresses == {
        address_bytes("10.81.1.7"),
        address_bytes("fd00:81:1::7"),
        *(link_local(mac) for mac in macs),
    }
    assert card.gateways == {address_bytes("10.81.1.1"): mac_bytes(ROUTER)}
    assert card.mtu_bytes == 1400


def test_what_is_on_its_segment() -> None:
    """Within the prefixes that are known; of a family without any, everything; link-local always."""
    card = Card.of(AGREED)
    assert card.is_on_link(address_bytes("10.81.1.200"))
    assert not card.is_on_link(address_bytes("10.81.2.1"))
    assert card.is_on_link(address_bytes("2001:db8::1"))
    assert card.is_on_link(address_bytes("fe80::1"))
