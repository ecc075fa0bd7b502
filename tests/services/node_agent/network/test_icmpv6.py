"""Neighbour discovery and router advertisements: right checksums, read without surprises."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.network.frames import FrameError, address_bytes, mac_bytes, parse_ethernet
from services.node_agent.network.icmpv6 import (
    ALL_NODES,
    Neighbour,
    RouterAdvertisement,
    build_neighbour,
    build_router_advertisement,
    internet_checksum,
    is_link_local,
    link_local,
    multicast_mac,
    neighbour_answer,
    parse_icmpv6,
    parse_neighbour,
    parse_router_advertisement,
    router_change,
    solicited_node,
    unsolicited_advertisement,
)

GUEST, ROUTER = mac_bytes("52:54:00:aa:bb:01"), mac_bytes("0a:58:a9:fe:01:01")
ADDRESS = address_bytes("fd00:81:1::7")
hosts = st.binary(min_size=6, max_size=6).map(lambda mac: bytes((mac[0] & 0xFE,)) + mac[1:])
addresses = st.binary(min_size=16, max_size=16)
solicitations = st.builds(
    Neighbour,
    destination=hosts,
    source=hosts,
    from_address=addresses,
    to_address=addresses,
    advertises=st.just(value=False),
    target=addresses,
    link=st.none() | hosts,
)
advertisements = st.builds(
    Neighbour,
    destination=hosts,
    source=hosts,
    from_address=addresses,
    to_address=addresses,
    advertises=st.just(value=True),
    target=addresses,
    link=st.none() | hosts,
    router=st.booleans(),
    solicited=st.booleans(),
    override=st.booleans(),
)
neighbours = solicitations | advertisements
router_advertisements = st.builds(
    RouterAdvertisement,
    destination=hosts,
    source=hosts,
    from_address=st.binary(min_size=14, max_size=14).map(lambda rest: b"\xfe\x80" + rest),
    to_address=addresses,
    lifetime_s=st.integers(0, 65_535),
    hop_limit=st.integers(0, 255),
    managed=st.booleans(),
    other=st.booleans(),
    link=st.none() | hosts,
)


def sum_of(frame: bytes) -> int:
    """The checksum of an ICMPv6 frame by another way than the product's: 0 where it is right. RFC 8200, 8.1."""
    packet = parse_ethernet(frame).payload
    body = packet[40:]
    covered = packet[8:40] + len(body).to_bytes(4) + bytes((0, 0, 0, 58)) + body
    return int.from_bytes(covered + b"\0" * (len(covered) % 2)) % 0xFFFF


@given(neighbours, st.binary(max_size=8))
def test_what_was_built_is_read(it: Neighbour, padding: bytes) -> None:
    """All fields come back, padded or not, and the checksum is right by another way of computing."""
    frame = build_neighbour(it)
    assert parse_neighbour(frame + padding) == it
    assert sum_of(frame) == 0


@given(router_advertisements)
def test_router_advertisements_come_back(it: RouterAdvertisement) -> None:
    """The same for router advertisements."""
    frame = build_router_advertisement(it)
    assert parse_router_advertisement(frame) == it
    assert sum_of(frame) == 0


@given(st.binary(max_size=120))
def test_strange_bytes_raise_one_error_only(data: bytes) -> None:
    """Whatever comes, the readers return or raise FrameError."""
    for read in (parse_icmpv6, parse_neighbour, parse_router_advertisement):
        try:
            read(data)
        except FrameError:
            continue


@given(neighbours.map(build_neighbour) | router_advertisements.map(build_router_advertisement), st.data())
def test_a_changed_bit_is_seen(frame: bytes, data: st.DataObject) -> None:
    """A changed bit of addresses or message never passes the checksum."""
    where = data.draw(st.integers(14 + 8, len(frame) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(frame)
    changed[where] ^= 1 << bit
    with pytest.raises(FrameError):
        parse_icmpv6(bytes(changed))


@given(neighbours, st.lists(st.binary(min_size=1, max_size=9), max_size=4))
def test_options_that_do_not_add_up(it: Neighbour, options: list[bytes]) -> None:
    """Options with lengths that are wrong raise FrameError, even if the checksum is right."""
    frame = build_neighbour(it)
    body = bytearray(frame[54:] + b"".join(options))
    body[2:4] = bytes(2)
    head = frame[14:18] + len(body).to_bytes(2) + frame[20:54]
    pseudo = head[8:40] + len(body).to_bytes(4) + bytes((0, 0, 0, 58))
    body[2:4] = internet_checksum(pseudo + bytes(body)).to_bytes(2)
    try:
        parse_neighbour(frame[:14] + head + bytes(body))
    except FrameError:
        return


def test_checksum_of_the_rfc() -> None:
    """The example of RFC 1071, 3."""
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF
    assert internet_checksum(b"\x01") == 0xFEFF


def test_an_announcement() -> None:
    """An unsolicited advertisement goes to all nodes and overrides what they know; a router says that it is one."""
    found = parse_neighbour(unsolicited_advertisement(GUEST, ADDRESS))
    assert (found.destination, found.to_address) == (mac_bytes("33:33:00:00:00:01"), ALL_NODES)
    assert (found.link, found.target, found.from_address) == (GUEST, ADDRESS, ADDRESS)
    assert (found.override, found.solicited, found.router) == (True, False, False)
    assert parse_neighbour(unsolicited_advertisement(ROUTER, ADDRESS, router=True)).router


def test_an_answer_goes_to_who_asked() -> None:
    """Solicited, overriding, from the asked address, to the asker's address and MAC."""
    asked = Neighbour(
        destination=multicast_mac(solicited_node(ADDRESS)),
        source=GUEST,
        from_address=link_local(GUEST),
        to_address=solicited_node(ADDRESS),
        advertises=False,
        target=ADDRESS,
        link=GUEST,
    )
    found = parse_neighbour(neighbour_answer(asked, ROUTER, router=True))
    assert (found.destination, found.to_address) == (GUEST, link_local(GUEST))
    assert (found.source, found.link, found.target) == (ROUTER, ROUTER, ADDRESS)
    assert (found.router, found.solicited, found.override) == (True, True, True)


def test_the_pair_of_router_advertisements() -> None:
    """The old router's lifetime ends, then the new one's begins, as long as it can be."""
    old, new = (ROUTER, link_local(ROUTER)), (GUEST, link_local(GUEST))
    ends, begins = (parse_router_advertisement(frame) for frame in router_change(old, new, to=GUEST))
    assert (ends.source, ends.from_address, ends.lifetime_s) == (ROUTER, link_local(ROUTER), 0)
    assert (begins.source, begins.from_address, begins.lifetime_s, begins.link) == (
        GUEST,
        link_local(GUEST),
        65_535,
        GUEST,
    )
    assert ends.destination == begins.destination == GUEST


def test_what_came_through_a_router_is_not_believed() -> None:
    """Neighbour discovery with a lower hop limit than 255 is refused, and a router with a global address."""
    frame = bytearray(unsolicited_advertisement(GUEST, ADDRESS))
    frame[21] = 64
    with pytest.raises(FrameError, match="through a router"):
        parse_neighbour(bytes(frame))
    wrong = RouterAdvertisement(
        destination=GUEST, source=ROUTER, from_address=ADDRESS, to_address=ALL_NODES, lifetime_s=1
    )
    with pytest.raises(FrameError, match="link-local"):
        parse_router_advertisement(build_router_advertisement(wrong))
    with pytest.raises(FrameError, match="no neighbour discovery"):
        parse_neighbour(router_change((ROUTER, link_local(ROUTER)), (GUEST, link_local(GUEST)))[0])


def test_addresses_that_are_made() -> None:
    """Link-local of a MAC, solicited-node of an address, MAC of a multicast address: as the RFCs' examples."""
    assert ipaddress.IPv6Address(link_local(GUEST)) == ipaddress.IPv6Address("fe80::5054:ff:feaa:bb01")
    assert ipaddress.IPv6Address(solicited_node(ADDRESS)) == ipaddress.IPv6Address("ff02::1:ff00:7")
    assert multicast_mac(solicited_node(ADDRESS)) == mac_bytes("33:33:ff:00:00:07")
    assert is_link_local(link_local(GUEST))
    assert not is_link_local(ADDRESS)
    assert not is_link_local(b"\xfe\x80\x00\x01")
