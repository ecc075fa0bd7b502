"""What a VM's cards have at the recipient, compared with what was agreed for them. Pure.

A guest's agent names all of its addresses, so one that it does not name is missing. A lease or a neighbour table knows
only some, so they show only what is there and was not agreed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.node_agent.network.sources import CardFacts
from shared.messages.network import AddressSource, CardNetwork, is_routable


def address_differences(agreed: Sequence[CardNetwork], seen: Sequence[CardFacts]) -> tuple[str, ...]:
    """A sentence for each difference; cards are in the VM's order. What nobody has seen is no difference."""
    return tuple(line for card, facts in zip(agreed, seen, strict=False) for line in _of_card(card, facts))


def _of_card(card: CardNetwork, facts: CardFacts) -> Iterator[str]:
    if facts.guest_mac is not None and facts.guest_mac not in {card.mac, card.guest_mac}:
        yield f"{card.mac}: the guest speaks by {facts.guest_mac}, agreed was {card.guest_mac or card.mac}"
    wanted = {each.address for each in card.addresses if is_routable(each.address)}
    if not wanted:
        return
    routers = {gateway.address for gateway in card.gateways}
    told = {each.address for each in facts.addresses if AddressSource.GUEST in each.sources}
    if any(is_routable(address) for address in told):
        for address in sorted(wanted - told):
            yield f"{card.mac}: {address} was agreed, and the guest does not have it"
    for each in facts.addresses:
        if is_routable(each.address) and each.address not in wanted | routers:
            yield f"{card.mac}: {each.address} ({', '.join(each.sources)}) was not agreed"
