"""What the guest has after a port, against what was agreed."""

from __future__ import annotations

import pytest

from services.node_agent.network.arrived import address_differences
from services.node_agent.network.sources import CardFacts
from shared.messages.network import AddressSource, CardAddress
from tests.services.node_agent.network.plans import GUEST_MAC, card

GUEST, LEASE, NEIGHBOUR = AddressSource.GUEST, AddressSource.LEASE, AddressSource.NEIGHBOUR
FOUR, SIX, OTHER = "10.81.1.10", "fd00:81:1::10", "10.81.1.77"


def facts(*addresses: tuple[str, AddressSource], guest_mac: str | None = None) -> CardFacts:
    return CardFacts(
        addresses=tuple(CardAddress(address=each, sources=(source,)) for each, source in addresses),
        guest_mac=guest_mac,
    )


@pytest.mark.parametrize(
    "seen",
    [
        facts(),
        facts((FOUR, GUEST), (SIX, GUEST), ("fe80::1", GUEST), guest_mac=GUEST_MAC),
        facts((FOUR, NEIGHBOUR)),
        facts(("fe80::5054:ff:fe00:10", GUEST)),
        facts(("10.81.1.1", NEIGHBOUR)),
    ],
)
def test_what_is_not_seen_is_no_difference(seen: CardFacts) -> None:
    """Nor is a link-local address, nor the router."""
    assert address_differences((card(),), (seen,)) == ()


@pytest.mark.parametrize(
    ("seen", "difference"),
    [
        (facts((FOUR, GUEST)), f"{GUEST_MAC}: {SIX} was agreed, and the guest does not have it"),
        (facts((FOUR, GUEST), (SIX, GUEST), (OTHER, LEASE)), f"{GUEST_MAC}: {OTHER} (lease) was not agreed"),
        (
            facts(guest_mac="02:00:00:00:00:05"),
            f"{GUEST_MAC}: the guest speaks by 02:00:00:00:00:05, agreed was {GUEST_MAC}",
        ),
    ],
)
def test_a_difference_is_a_sentence(seen: CardFacts, difference: str) -> None:
    assert address_differences((card(),), (seen,)) == (difference,)


def test_a_card_without_agreed_addresses_is_not_compared() -> None:
    assert address_differences((card().model_copy(update={"addresses": ()}),), (facts((OTHER, GUEST)),)) == ()
    assert address_differences((card(),), ()) == ()
