"""What is known of a VM's addresses, joined from its sources."""

from __future__ import annotations

from typing import Any

import pytest

from services.node_agent.network.sources import MAX_FINDINGS, CardFacts, DeclaredCard, NoReader, merge_sources
from services.recipient_agent.testing import make_vm
from shared.messages.network import AddressSource, CardAddress, NetworkGateway, NetworkMode, NodeNetwork, VmNetwork
from shared.messages.vm import Nic, Vlan

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
GUEST, LEASE, NEIGHBOUR, DECLARED = (
    AddressSource.GUEST,
    AddressSource.LEASE,
    AddressSource.NEIGHBOUR,
    AddressSource.DECLARED,
)
ROUTER = NetworkGateway(address="192.0.2.1", mac="02:00:00:00:00:01")
HOST = NodeNetwork(modes=(NetworkMode.JOINED, NetworkMode.EXTEND), segments={"br0": "tenants"})


def nic(**changes: Any) -> Nic:
    """A card on br0."""
    return Nic(**{"mac": MAC, "model": "virtio", "bridge": "br0", **changes})


def seen(*addresses: tuple[str, tuple[AddressSource, ...]], **facts: Any) -> CardFacts:
    """What this host sees of a card."""
    return CardFacts(tuple(CardAddress(address=a, sources=sources) for a, sources in addresses), **facts)


def merged(
    facts: CardFacts,
    declared: DeclaredCard | None = None,
    *,
    card: Nic | None = None,
    other: DeclaredCard | None = None,
) -> VmNetwork:
    """Of a VM with one card."""
    listed = {MAC: declared} if declared else {}
    listed |= {OTHER_MAC: other} if other else {}
    return merge_sources([card or nic()], listed, [facts], host=HOST, mtu=1400)


def test_what_the_operator_declares_is_told_with_all_who_see_it() -> None:
    """Its own values go before what this host sees; the bridge names the segment."""
    declared = DeclaredCard(
        addresses=("192.0.2.7", "2001:db8::7"),
        on_link=("192.0.2.0/24",),
        gateways=(ROUTER,),
        holder="acme",
        announced_by="alpha",
    )
    facts = seen(("192.0.2.7", (GUEST, NEIGHBOUR)), ("2001:db8::7", (GUEST,)), on_link=("10.0.0.0/8",), mtu=1450)

    network = merged(facts, declared)

    (card,) = network.cards
    assert [(each.address, each.sources) for each in card.addresses] == [
        ("192.0.2.7", (DECLARED, GUEST, NEIGHBOUR)),
        ("2001:db8::7", (DECLARED, GUEST)),
    ]
    assert (card.on_link, card.gateways, card.mtu) == (("192.0.2.0/24",), (ROUTER,), 1450)
    assert (card.segment, card.holder, card.announced_by) == ("tenants", "acme", "alpha")
    assert (network.modes, network.findings) == (HOST.modes, ())


def test_a_guest_cannot_claim_what_is_not_declared() -> None:
    """It is named, and not kept; a link-local address means nothing elsewhere, so it may."""
    facts = seen(("192.0.2.7", (GUEST,)), ("192.0.2.99", (GUEST, NEIGHBOUR)), ("fe80::5054:ff:fe00:1", (NEIGHBOUR,)))

    network = merged(facts, DeclaredCard(addresses=("192.0.2.7",)))

    assert [each.address for each in network.cards[0].addresses] == ["192.0.2.7", "fe80::5054:ff:fe00:1"]
    assert network.findings == (f"{MAC}: 192.0.2.99 (guest, neighbour) is not kept: it is not declared",)


def test_a_declared_address_that_nobody_sees_is_a_finding() -> None:
    """Only where something is seen of the card: a host that sees nothing cannot say so."""
    declared = DeclaredCard(addresses=("192.0.2.7",))
    assert merged(CardFacts(), declared).findings == ()
    found = merged(seen(("192.0.2.8", (LEASE,))), declared).findings
    assert found == (
        f"{MAC}: 192.0.2.8 (lease) is not kept: it is not declared",
        f"{MAC}: 192.0.2.7 is declared, and not seen",
    )


@pytest.mark.parametrize(
    ("address", "why"),
    [("192.0.2.1", "it is a router's"), ("192.0.2.50", f"it is declared for {OTHER_MAC}")],
)
def test_an_undeclared_card_never_takes_what_is_anothers(address: str, why: str) -> None:
    """Neither a router's address nor another card's; everything else that is seen is taken."""
    facts = seen(("192.0.2.7", (LEASE, GUEST)), (address, (GUEST, LEASE)), gateways=(ROUTER,))
    network = merged(facts, other=DeclaredCard(addresses=("192.0.2.50",)))
    assert [each.address for each in network.cards[0].addresses] == ["192.0.2.7"]
    assert network.findings == (f"{MAC}: {address} (guest, lease) is not kept: {why}",)


def test_guest_and_lease_are_compared() -> None:
    """Not IPv6, which is seldom leased, and not where only one of them says anything."""
    facts = seen(("192.0.2.7", (LEASE,)), ("192.0.2.8", (GUEST,)), ("2001:db8::7", (GUEST,)))
    assert merged(facts).findings == (
        f"{MAC}: 192.0.2.8 is known by guest, not by lease",
        f"{MAC}: 192.0.2.7 is known by lease, not by guest",
    )
    assert merged(seen(("192.0.2.7", (NEIGHBOUR,)))).findings == ()


def test_another_mac_of_the_guest_is_told() -> None:
    """The one in the definition is no finding."""
    assert merged(CardFacts(guest_mac=MAC)).cards[0].guest_mac is None
    network = merged(CardFacts(guest_mac=OTHER_MAC))
    assert network.cards[0].guest_mac == OTHER_MAC
    assert network.findings == (f"{MAC}: the guest itself has set {OTHER_MAC}",)


@pytest.mark.parametrize(
    ("card", "facts", "segment"),
    [
        (nic(vlan=Vlan(tags=(7,))), CardFacts(), ""),
        (nic(port_group="gold"), CardFacts(), ""),
        (nic(bridge="br9"), CardFacts(), ""),
        (nic(bridge="vmp0123456789a0"), CardFacts(segment="home"), "home"),
    ],
)
def test_a_bridge_does_not_name_every_segment(card: Nic, facts: CardFacts, segment: str) -> None:
    """Behind a VLAN or in a port group is elsewhere; a card that an earlier port brought has its home's segment."""
    assert merged(facts, card=card).cards[0].segment == segment


@pytest.mark.parametrize("kind", ["user", "passt"])
def test_a_card_behind_the_host_has_no_address_of_its_own(kind: str) -> None:
    """Whatever the guest says."""
    network = merged(seen(("10.0.2.15", (GUEST,)), guest_mac=OTHER_MAC), card=nic(kind=kind))
    assert (network.cards[0].addresses, network.cards[0].guest_mac, network.findings) == ((), None, ())


def test_findings_are_bounded_and_one_line_each() -> None:
    """Others' words come from guests and files."""
    facts = CardFacts(findings=("a\nb" + "x" * 999, *(f"finding {number}" for number in range(99))))
    found = merged(facts).findings
    assert (len(found), found[0][:3], len(found[0])) == (MAX_FINDINGS, "a b", 256)
    assert found[-1] == f"and {100 - MAX_FINDINGS + 1} more"


async def test_the_reader_that_sees_nothing() -> None:
    """One entry per card all the same."""
    assert await NoReader().read(make_vm()) == (CardFacts(),)
