"""What a quote says of the VM's addresses."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.recipient_agent.network_lines import TAKEN_AS_ONE, network_lines
from services.recipient_agent.network_terms import NetworkChoice
from services.recipient_agent.prefix_proof import Code, Finding
from services.recipient_agent.testing import MAC, make_vm
from shared.messages.network import CardAddress, CardNetwork, NetworkTerms, VmNetwork
from shared.messages.quote_lines import Part
from shared.messages.vm import Nic


def lines(terms: dict[str, Any] | None, *addresses: str, segment: str = "") -> list[str]:
    """Of a VM with one card."""
    card = CardNetwork(mac=MAC, segment=segment, addresses=tuple(CardAddress(address=address) for address in addresses))
    choice = NetworkChoice(NetworkTerms.model_validate(terms) if terms else None)
    told = network_lines(make_vm(network=VmNetwork(cards=(card,))), choice)
    assert all(line.part is Part.NETWORK for line in (*told.kept, *told.unsure))
    return [line.text for line in (*told.kept, *told.unsure)]


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"carry": "joined"}, "by the joined networks of the providers, both on segment lan"),
        (
            {"carry": "extend", "ends_after_s": 2592000, "price": Decimal("5.00")},
            (
                "by an extension of the donor's network to this VM, for 30 days after the port, for 5.00 in all; "
                "then the addresses no longer lead here"
            ),
        ),
        (
            {"carry": "extend", "ends_after_s": 7200, "then_announce": True},
            (
                "by an extension of the donor's network to this VM, for 2 hours after the port, free of charge; "
                "meanwhile announced from here, and then without the donor"
            ),
        ),
        (
            {"carry": "translate"},
            "by translation at the donor's gateway, for as long as both providers take part, free of charge",
        ),
        ({"carry": "translate", "ends_after_s": 90}, "for 90 s after the port"),
        ({"carry": "anchor"}, "by the gateways of their neutral prefix, at every provider that takes part"),
    ],
)
def test_how_long_for_how_much_and_what_then(terms: dict[str, Any], says: str) -> None:
    """One line for each card, with its addresses."""
    (line,) = lines(terms, "192.0.2.7", "2001:db8::7", "fe80::1", segment="lan")
    assert line.startswith(f"network card {MAC}: 192.0.2.7, 2001:db8::7 are kept ")
    assert says in line


def test_the_tenants_own_word_is_told_as_such() -> None:
    """No provider has named a segment."""
    assert lines({"carry": "joined"}, "192.0.2.7") == [
        f"network card {MAC}: 192.0.2.7 is kept by the joined networks of the providers, as the tenant says"
    ]


def test_a_vm_that_comes_home_is_told_so() -> None:
    """It is on its own segment again, whatever the providers have joined."""
    card = CardNetwork(mac=MAC, segment="lan", addresses=(CardAddress(address="192.0.2.7"),))
    vm = make_vm(network=VmNetwork(cards=(card,), away=True))
    (line,) = network_lines(vm, NetworkChoice(NetworkTerms.model_validate({"carry": "joined"}))).kept
    assert line.text.endswith("192.0.2.7 is kept by its own segment lan, to which it comes back")


def test_many_addresses_and_none() -> None:
    """A line stays a line."""
    (many,) = lines({"carry": "anchor"}, *(f"192.0.2.{number}" for number in range(1, 20)))
    assert "192.0.2.8 and 11 more are kept" in many
    (none,) = lines({"carry": "joined"})
    assert "its addresses are kept" in none


def test_nothing_in_common_is_said_plainly() -> None:
    """Nobody can say that the address works; a VM without a card of its own needs no such word."""
    assert lines(None, "192.0.2.7") == [TAKEN_AS_ONE]
    alone = make_vm(nics=(Nic(mac=MAC, model="virtio", bridge="", kind="user"),))
    assert network_lines(alone, NetworkChoice()).unsure == ()


def test_why_nothing_is_announced() -> None:
    """One line for each prefix, with the codes of what is missing."""
    card = CardNetwork(mac=MAC, addresses=(CardAddress(address="192.0.2.7"),))
    missing = tuple(Finding(code, "192.0.2.0/24", "") for code in (Code.IRR_MISSING, Code.AUTHORISATION_MISSING))
    choice = NetworkChoice(NetworkTerms.model_validate({"carry": "extend"}), unproven=missing)
    *_, line = network_lines(make_vm(network=VmNetwork(cards=(card,))), choice).kept
    assert line.part is Part.NETWORK
    assert line.text == "192.0.2.0/24 is not announced from here: irr_missing, authorisation_missing"
