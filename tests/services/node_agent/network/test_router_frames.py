"""What a guest hears from its router of IPv6, and which of its questions are answered."""

from __future__ import annotations

import ipaddress

import pytest

from services.node_agent.network.frames import address_bytes, gratuitous_arps, mac_bytes
from services.node_agent.network.icmpv6 import (
    ALL_NODES,
    NO_IPV6,
    Icmpv6,
    Neighbour,
    build_neighbour,
    link_local,
    multicast_mac,
    parse_icmpv6,
    parse_neighbour,
    parse_router_advertisement,
    solicited_node,
)
from services.node_agent.network.router_frames import LIFETIME_S, advertisement, answer, is_router
from shared.messages.network import CardAddress, CardNetwork, NetworkGateway
from tests.services.node_agent.network.plans import GATEWAY_MAC, GUEST_MAC, card

GUEST, ROUTER = mac_bytes(GUEST_MAC), mac_bytes(GATEWAY_MAC)
OWN, NEIGHBOUR = "fd00:81:1::10", "fd00:81:1::20"
MADE = str(ipaddress.IPv6Address(address_bytes("fd00:81:1::")[:8] + link_local(GUEST)[8:]))


def asks(target: str, *, source: bytes = GUEST, from_address: bytes | None = None) -> bytes:
    group = solicited_node(address_bytes(target))
    return build_neighbour(
        Neighbour(
            destination=multicast_mac(group),
            source=source,
            from_address=address_bytes(OWN) if from_address is None else from_address,
            to_address=group,
            advertises=False,
            target=address_bytes(target),
            link=source,
        )
    )


def with_(**changes: object) -> CardNetwork:
    return card().model_copy(update=changes)


def read(frame: bytes | None) -> Icmpv6:
    assert frame is not None
    return parse_icmpv6(frame)


def test_the_router_advertises_itself_by_the_address_that_the_guest_knows() -> None:
    told = parse_router_advertisement(advertisement(card()) or b"")
    assert (told.lifetime_s, told.source, told.to_address, told.link) == (LIFETIME_S, ROUTER, ALL_NODES, ROUTER)
    assert told.from_address == link_local(ROUTER)
    known = NetworkGateway(address="fe80::1", mac=GATEWAY_MAC)
    told = parse_router_advertisement(advertisement(with_(gateways=(*card().gateways, known))) or b"")
    assert told.from_address == address_bytes("fe80::1")


def test_at_the_end_it_is_no_router_any_more() -> None:
    last = advertisement(with_(addresses=(CardAddress(address=MADE),)), lifetime_s=0) or b""
    assert parse_router_advertisement(last).lifetime_s == 0
    assert len(read(last).body) == 16


def test_where_ipv6_has_no_router_nothing_is_said() -> None:
    alone = with_(gateways=card().gateways[:1])
    assert not is_router(alone)
    assert advertisement(alone) is None


@pytest.mark.parametrize(("address", "offered"), [(MADE, True), (OWN, False)])
def test_a_prefix_is_offered_only_to_a_guest_that_has_made_an_address_of_it(address: str, *, offered: bool) -> None:
    """Its lifetime is renewed so; another guest would take an address that is not its own here."""
    body = read(advertisement(with_(addresses=(CardAddress(address=address),)))).body
    option = body[24:]
    assert bool(option) is offered
    if offered:
        assert (option[:2], option[2], option[3]) == (b"\x03\x04", 64, 0x40)
        assert option[-16:] == address_bytes("fd00:81:1::")


def test_old_neighbours_are_behind_this_host() -> None:
    said = parse_neighbour(answer(card(), asks(NEIGHBOUR)) or b"")
    assert (said.target, said.link, said.router, said.destination) == (address_bytes(NEIGHBOUR), ROUTER, False, GUEST)


@pytest.mark.parametrize(
    "frame",
    [
        asks(OWN, from_address=NO_IPV6),
        asks(NEIGHBOUR, from_address=NO_IPV6),
        asks("fd00:81:1::1"),
        asks(OWN),
        asks("2001:db8::1"),
        asks("fe80::20"),
        asks(NEIGHBOUR, source=mac_bytes("02:00:00:00:00:05")),
        b"",
        gratuitous_arps(GUEST, bytes((10, 81, 1, 10)))[0],
    ],
)
def test_other_questions_have_no_answer_here(frame: bytes) -> None:
    """Checks for duplicates, the kernel's own addresses, the guest's, other segments, other hosts, other frames."""
    assert answer(card(), frame) is None
