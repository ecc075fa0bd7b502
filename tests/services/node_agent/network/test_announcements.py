"""What is told to a segment about a guest, and to a guest about its routers."""

from __future__ import annotations

import pytest

from services.node_agent.network.announcements import announcements
from services.node_agent.network.frames import FrameError, mac_bytes, parse_arp, parse_ethernet
from services.node_agent.network.icmpv6 import parse_neighbour, parse_router_advertisement
from shared.messages.network import NetworkGateway, NetworkMode, NetworkPlan
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import BRIDGE, GATEWAY_MAC, GUEST_MAC, plan

OTHER_MAC = "02:00:00:00:00:99"


def with_gateways(found: NetworkPlan, *gateways: tuple[str, str]) -> NetworkPlan:
    (card,) = found.cards
    told = tuple(NetworkGateway(address=address, mac=mac) for address, mac in gateways)
    changed = card.card.model_copy(update={"gateways": told})
    return found.model_copy(update={"cards": (card.model_copy(update={"card": changed}),)})


def summary(frames: tuple[bytes, ...]) -> list[tuple[object, ...]]:
    """Each frame in short: ARP operation and sender, or what is advertised, and from which MAC."""
    found: list[tuple[object, ...]] = []
    for frame in frames:
        source = parse_ethernet(frame).source.hex(":")
        try:
            arp = parse_arp(frame)
            found.append(("arp", int(arp.operation), arp.sender[-1], source))
            continue
        except FrameError:
            pass
        try:
            told = parse_neighbour(frame)
            assert told.override
            found.append(("na", told.router, told.target[-1], source))
        except FrameError:
            found.append(("other", source))
    return found


@pytest.mark.parametrize("mode", [NetworkMode.JOINED, NetworkMode.EXTEND])
@pytest.mark.parametrize("side", list(Side))
def test_the_guest_on_a_shared_segment(mode: NetworkMode, side: Side) -> None:
    """Both operations of ARP, and an advertisement that overrides; then it is asked for its multicast groups."""
    (sent,) = announcements(plan(mode), side)
    shared = "vmbr0" if mode is NetworkMode.JOINED or side is Side.OUTBOUND else BRIDGE
    assert sent.device == shared
    assert summary(sent.frames)[:3] == [
        ("arp", 1, 10, GUEST_MAC),
        ("arp", 2, 10, GUEST_MAC),
        ("na", False, 0x10, GUEST_MAC),
    ]
    queries = [parse_ethernet(frame) for frame in sent.frames[3:]]
    assert [query.destination for query in queries] == [mac_bytes(GUEST_MAC)] * 2
    assert all(query.source != mac_bytes(GUEST_MAC) for query in queries)


def test_a_guest_of_unknown_addresses_is_known_by_its_mac() -> None:
    found = plan(NetworkMode.JOINED)
    (card,) = found.cards
    nameless = card.model_copy(update={"card": card.card.model_copy(update={"addresses": ()})})
    (sent,) = announcements(found.model_copy(update={"cards": (nameless,)}), Side.INBOUND)
    assert summary(sent.frames)[0] == ("arp", 3, 0, GUEST_MAC)


@pytest.mark.parametrize("mode", [NetworkMode.TRANSLATE, NetworkMode.ANCHOR])
def test_nothing_is_said_where_nobody_shares_the_segment(mode: NetworkMode) -> None:
    """The gateway's MAC is the one that the guest knows."""
    assert announcements(plan(mode), Side.INBOUND) == ()
    assert announcements(plan(mode), Side.OUTBOUND) == ()


def test_a_gateway_with_another_mac_is_told_to_the_guest() -> None:
    """The first one's MAC is that of this host's bridge; the router of IPv6 had another one at the donor."""
    changed = with_gateways(
        plan(NetworkMode.TRANSLATE), ("10.81.1.1", GATEWAY_MAC), ("10.81.1.2", OTHER_MAC), ("fd00:81:1::1", OTHER_MAC)
    )
    (sent,) = announcements(changed, Side.INBOUND)
    assert sent.device == BRIDGE
    assert summary(sent.frames)[:3] == [
        ("arp", 1, 2, GATEWAY_MAC),
        ("arp", 2, 2, GATEWAY_MAC),
        ("na", True, 1, GATEWAY_MAC),
    ]
    assert parse_ethernet(sent.frames[0]).destination == mac_bytes(GUEST_MAC)
    ends, begins = (parse_router_advertisement(frame) for frame in sent.frames[3:])
    assert (ends.lifetime_s, ends.source.hex(":")) == (0, OTHER_MAC)
    assert (begins.lifetime_s > 0, begins.source.hex(":")) == (True, GATEWAY_MAC)
    assert ends.from_address != begins.from_address


def test_a_known_link_local_address_stays() -> None:
    """It is this host's now, so the guest's default route stays, and only the MAC is told."""
    changed = with_gateways(
        plan(announce=True), ("10.81.1.1", GATEWAY_MAC), ("fe80::1", OTHER_MAC), ("fd00:81:1::1", OTHER_MAC)
    )
    (sent,) = announcements(changed, Side.INBOUND)
    assert [each[:2] for each in summary(sent.frames)][-2:] == [("na", True)] * 2


def test_while_extended_the_gateway_is_the_donors() -> None:
    changed = with_gateways(plan(), ("10.81.1.1", GATEWAY_MAC), ("fd00:81:1::1", OTHER_MAC))
    (sent,) = announcements(changed, Side.INBOUND)
    assert len(sent.frames) == 5
