"""Only one card's frames cross an extension: each rule by example, the whole by random frames."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.node_agent.network.extension.filter import MAX_LEARNED, CardFilter, is_control
from services.node_agent.network.extension.verdict import PASSED, Answered, Dropped, Reason, Towards
from services.node_agent.network.frames import (
    BROADCAST,
    NO_IPV4,
    ArpOperation,
    address_bytes,
    build_ethernet,
    gratuitous_arps,
    parse_arp,
    reverse_arp,
)
from services.node_agent.network.icmpv6 import (
    ALL_NODES,
    NO_IPV6,
    RouterAdvertisement,
    build_router_advertisement,
    is_link_local,
    link_local,
    multicast_mac,
    parse_neighbour,
    router_change,
    unsolicited_advertisement,
)
from tests.support.card_frames import (
    CARD,
    FAR_4,
    FAR_6,
    GUEST,
    GUEST_4,
    GUEST_6,
    OTHER,
    OTHER_4,
    OTHER_6,
    ROUTER,
    ROUTER_4,
    ROUTER_6,
    ROUTER_LINK,
    advertise,
    arp,
    dhcp,
    ipv4,
    ipv6,
    listeners,
    solicit,
    udp,
    who_has,
)

ALL = multicast_mac(ALL_NODES)
MDNS_4 = bytes.fromhex("01005e0000fb")
BROADCAST_4 = b"\xff" * 4
PRIVATE = address_bytes("fe80::1234")
REPLY = ArpOperation.REPLY
ROUTER_SAYS = build_router_advertisement(
    RouterAdvertisement(
        destination=ALL, source=ROUTER, from_address=ROUTER_LINK, to_address=ALL_NODES, lifetime_s=1800, link=ROUTER
    )
)
FALSE_ROUTER, FALSE_LINK = router_change((OTHER, link_local(OTHER)), (OTHER, ROUTER_LINK))
OPTIONS = bytes((58, 0, 1, 4, 0, 0, 0, 0))


def name(value: object) -> str:
    """Frames have none."""
    return str(value) if isinstance(value, Reason) else "frame"


def judge(frame: bytes, towards: Towards) -> object:
    """By a filter that has seen nothing yet: the reason where it dropped the frame."""
    verdict = CardFilter(CARD).judge(memoryview(frame), towards)
    return verdict.reason if isinstance(verdict, Dropped) else verdict


@pytest.mark.parametrize(
    "frame",
    [
        ipv4(ROUTER, GUEST, GUEST_4, FAR_4),
        ipv4(OTHER, GUEST, GUEST_4, OTHER_4),
        ipv6(ROUTER, GUEST, GUEST_6, FAR_6),
        ipv6(OTHER, GUEST, link_local(GUEST), link_local(OTHER)),
        ipv6(OTHER, GUEST, PRIVATE, link_local(OTHER)),
        who_has(GUEST, GUEST_4, OTHER_4),
        who_has(GUEST, NO_IPV4, GUEST_4),
        arp(REPLY, GUEST, GUEST_4, ROUTER_4, to=ROUTER, target_mac=ROUTER),
        *gratuitous_arps(GUEST, GUEST_4),
        reverse_arp(GUEST),
        solicit(GUEST, GUEST_6, OTHER_6),
        solicit(GUEST, NO_IPV6, GUEST_6),
        solicit(GUEST, NO_IPV6, PRIVATE),
        advertise(ROUTER, GUEST, GUEST_6),
        unsolicited_advertisement(GUEST, GUEST_6),
        ipv4(BROADCAST, GUEST, NO_IPV4, BROADCAST_4, dhcp(68, 67, GUEST), 17),
        ipv4(BROADCAST, GUEST, GUEST_4, BROADCAST_4, dhcp(68, 67, GUEST), 17),
        ipv6(multicast_mac(ALL_NODES), GUEST, link_local(GUEST), ALL_NODES, udp(546, 547), 17),
        listeners(multicast_mac(ALL_NODES), GUEST, link_local(GUEST), 143),
        listeners(multicast_mac(ALL_NODES), GUEST, NO_IPV6, 131),
    ],
    ids=name,
)
def test_what_the_card_says_passes_to_the_donor(frame: bytes) -> None:
    """Its own packets to one host, its questions, answers, announcements and requests."""
    assert judge(frame, Towards.DONOR) is PASSED


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ipv4(ROUTER, OTHER, OTHER_4, FAR_4), Reason.OTHER_MAC),
        (ipv4(ROUTER, OTHER, GUEST_4, FAR_4), Reason.OTHER_MAC),
        (ipv4(ROUTER, GUEST, OTHER_4, FAR_4), Reason.OTHER_ADDRESS),
        (ipv4(GUEST, GUEST, GUEST_4, FAR_4), Reason.OWN),
        (ipv4(BROADCAST, GUEST, GUEST_4, BROADCAST_4), Reason.BROADCAST),
        (ipv4(MDNS_4, GUEST, GUEST_4, address_bytes("224.0.0.251"), udp(5353, 5353), 17), Reason.MULTICAST),
        (ipv4(BROADCAST, GUEST, NO_IPV4, BROADCAST_4, dhcp(68, 67, OTHER), 17), Reason.OTHER_ADDRESS),
        (ipv4(BROADCAST, GUEST, NO_IPV4, BROADCAST_4, dhcp(67, 68, GUEST), 17), Reason.OTHER_ADDRESS),
        (ipv6(ROUTER, GUEST, OTHER_6, FAR_6), Reason.OTHER_ADDRESS),
        (ipv6(ROUTER, GUEST, NO_IPV6, FAR_6), Reason.OTHER_ADDRESS),
        (ipv6(OTHER, GUEST, ROUTER_LINK, OTHER_6), Reason.GATEWAY),
        (ipv6(ALL, GUEST, GUEST_6, ALL_NODES), Reason.MULTICAST),
        (who_has(GUEST, OTHER_4, OTHER_4), Reason.OTHER_ADDRESS),
        (who_has(GUEST, ROUTER_4, ROUTER_4), Reason.GATEWAY),
        (who_has(GUEST, GUEST_4, FAR_4), Reason.OTHER_ADDRESS),
        (who_has(GUEST, NO_IPV4, OTHER_4), Reason.OTHER_ADDRESS),
        (arp(REPLY, GUEST, GUEST_4, OTHER_4, sender_mac=OTHER), Reason.OTHER_MAC),
        (arp(REPLY, GUEST, ROUTER_4, OTHER_4, to=OTHER), Reason.GATEWAY),
        (arp(REPLY, GUEST, OTHER_4, OTHER_4, to=OTHER), Reason.OTHER_ADDRESS),
        (arp(ArpOperation.REVERSE_REQUEST, GUEST, NO_IPV4, NO_IPV4, target_mac=OTHER), Reason.OTHER_MAC),
        (solicit(GUEST, NO_IPV6, OTHER_6), Reason.OTHER_ADDRESS),
        (solicit(GUEST, NO_IPV6, ROUTER_6), Reason.GATEWAY),
        (solicit(GUEST, GUEST_6, FAR_6), Reason.OTHER_ADDRESS),
        (solicit(GUEST, GUEST_6, OTHER_6, link=OTHER), Reason.OTHER_MAC),
        (advertise(OTHER, GUEST, OTHER_6), Reason.OTHER_ADDRESS),
        (advertise(OTHER, GUEST, ROUTER_6), Reason.GATEWAY),
        (router_change((GUEST, link_local(GUEST)), (GUEST, link_local(GUEST)))[0], Reason.GATEWAY),
        (ipv6(OTHER, GUEST, link_local(GUEST), ALL_NODES, OPTIONS + bytes((134,)) + bytes(15), 60), Reason.MALFORMED),
        (listeners(multicast_mac(ALL_NODES), GUEST, link_local(GUEST), 130), Reason.MULTICAST),
        (build_ethernet(OTHER, GUEST, 0x8100) + bytes(50), Reason.TYPE),
        (build_ethernet(OTHER, GUEST, 0x88CC) + bytes(50), Reason.TYPE),
        (build_ethernet(OTHER, GUEST, 0x0800) + bytes(50), Reason.MALFORMED),
        (b"", Reason.MALFORMED),
    ],
    ids=name,
)
def test_what_does_not_pass_to_the_donor(frame: bytes, reason: Reason) -> None:
    """Another MAC or address, a gateway's, groups of hosts, other types: dropped with the reason."""
    assert judge(frame, Towards.DONOR) is reason


def test_questions_for_a_gateway_are_answered_here() -> None:
    """The agreed MAC comes back to the card, for IPv4, for IPv6 and for a router's link-local address."""
    asked = judge(who_has(GUEST, GUEST_4, ROUTER_4), Towards.DONOR)
    assert isinstance(asked, Answered)
    answer = parse_arp(asked.frame)
    assert (answer.destination, answer.sender_mac, answer.sender) == (GUEST, ROUTER, ROUTER_4)
    for address in (ROUTER_6, ROUTER_LINK):
        asked = judge(solicit(GUEST, GUEST_6, address), Towards.DONOR)
        assert isinstance(asked, Answered)
        found = parse_neighbour(asked.frame)
        assert (found.destination, found.link, found.target, found.router) == (GUEST, ROUTER, address, True)


@pytest.mark.parametrize(
    "frame",
    [
        ipv4(GUEST, ROUTER, FAR_4, GUEST_4),
        ipv6(GUEST, ROUTER, FAR_6, GUEST_6),
        who_has(OTHER, OTHER_4, GUEST_4),
        who_has(ROUTER, ROUTER_4, GUEST_4, to=GUEST),
        arp(REPLY, OTHER, OTHER_4, GUEST_4, to=GUEST, target_mac=GUEST),
        arp(REPLY, ROUTER, ROUTER_4, GUEST_4, to=GUEST, target_mac=GUEST),
        *gratuitous_arps(ROUTER, ROUTER_4),
        solicit(OTHER, OTHER_6, GUEST_6),
        solicit(OTHER, NO_IPV6, GUEST_6),
        solicit(OTHER, OTHER_6, link_local(GUEST)),
        advertise(GUEST, OTHER, OTHER_6),
        advertise(GUEST, ROUTER, ROUTER_6),
        unsolicited_advertisement(ROUTER, ROUTER_6, router=True),
        ROUTER_SAYS,
        ipv4(BROADCAST, ROUTER, ROUTER_4, BROADCAST_4, dhcp(67, 68, GUEST), 17),
        ipv4(GUEST, ROUTER, ROUTER_4, BROADCAST_4, dhcp(67, 68, GUEST), 17),
        ipv6(GUEST, OTHER, OTHER_6, PRIVATE),
        listeners(multicast_mac(ALL_NODES), ROUTER, ROUTER_LINK, 130),
    ],
    ids=name,
)
def test_what_is_for_the_card_passes_to_the_recipient(frame: bytes) -> None:
    """Packets for it, questions for its addresses, what its gateways say, DHCP for its MAC."""
    assert judge(frame, Towards.RECIPIENT) is PASSED


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ipv4(OTHER, ROUTER, FAR_4, OTHER_4), Reason.OTHER_MAC),
        (ipv4(OTHER, ROUTER, FAR_4, GUEST_4), Reason.OTHER_MAC),
        (ipv4(GUEST, OTHER, OTHER_4, FAR_4), Reason.OTHER_ADDRESS),
        (ipv4(GUEST, OTHER, OTHER_4, BROADCAST_4), Reason.OTHER_ADDRESS),
        (ipv4(GUEST, ROUTER, ROUTER_4, OTHER_4, dhcp(67, 68, OTHER), 17), Reason.OTHER_ADDRESS),
        (ipv6(GUEST, OTHER, OTHER_6, FAR_6), Reason.OTHER_ADDRESS),
        (ipv6(GUEST, OTHER, OTHER_6, ALL_NODES), Reason.OTHER_ADDRESS),
        (ipv6(GUEST, OTHER, OTHER_6, ROUTER_LINK), Reason.OTHER_ADDRESS),
        (arp(REPLY, OTHER, OTHER_4, FAR_4, to=GUEST), Reason.OTHER_ADDRESS),
        (ipv4(ROUTER, GUEST, GUEST_4, FAR_4), Reason.OWN),
        (ipv4(BROADCAST, OTHER, OTHER_4, BROADCAST_4), Reason.BROADCAST),
        (ipv4(MDNS_4, OTHER, OTHER_4, address_bytes("224.0.0.251")), Reason.MULTICAST),
        (ipv4(BROADCAST, ROUTER, ROUTER_4, BROADCAST_4, dhcp(67, 68, OTHER), 17), Reason.BROADCAST),
        (ipv6(ALL, OTHER, OTHER_6, ALL_NODES), Reason.MULTICAST),
        (who_has(OTHER, OTHER_4, ROUTER_4), Reason.OTHER_ADDRESS),
        (who_has(OTHER, OTHER_4, OTHER_4), Reason.OTHER_ADDRESS),
        (who_has(OTHER, GUEST_4, GUEST_4), Reason.CONFLICT),
        (arp(REPLY, OTHER, GUEST_4, OTHER_4, to=GUEST), Reason.CONFLICT),
        (arp(REPLY, OTHER, ROUTER_4, GUEST_4, to=GUEST), Reason.GATEWAY),
        (gratuitous_arps(OTHER, ROUTER_4)[0], Reason.GATEWAY),
        (reverse_arp(OTHER), Reason.TYPE),
        (solicit(OTHER, OTHER_6, ROUTER_6), Reason.OTHER_ADDRESS),
        (solicit(OTHER, OTHER_6, PRIVATE), Reason.OTHER_ADDRESS),
        (unsolicited_advertisement(OTHER, GUEST_6), Reason.CONFLICT),
        (advertise(GUEST, OTHER, ROUTER_6), Reason.GATEWAY),
        (advertise(GUEST, ROUTER, ROUTER_6, link=OTHER), Reason.GATEWAY),
        (unsolicited_advertisement(OTHER, OTHER_6), Reason.OTHER_ADDRESS),
        (FALSE_ROUTER, Reason.GATEWAY),
        (FALSE_LINK, Reason.GATEWAY),
        (build_ethernet(GUEST, OTHER, 0x8100) + bytes(50), Reason.TYPE),
        (build_ethernet(BROADCAST, OTHER, 0x88CC) + bytes(50), Reason.TYPE),
        (ipv4(GUEST, BROADCAST, FAR_4, GUEST_4), Reason.MALFORMED),
        (solicit(OTHER, OTHER_6, GUEST_6)[:-1] + b"\0", Reason.MALFORMED),
    ],
    ids=name,
)
def test_what_does_not_pass_to_the_recipient(frame: bytes, reason: Reason) -> None:
    """Other hosts' frames and questions, false gateways, who claims the card's address: dropped with the reason."""
    assert judge(frame, Towards.RECIPIENT) is reason


def test_a_link_local_address_that_the_guest_chose_can_be_asked_for() -> None:
    """It is remembered from the guest's own frames, a few of them, and forgotten in their order."""
    it = CardFilter(CARD)
    chosen = [PRIVATE[:15] + bytes((number,)) for number in range(MAX_LEARNED + 1)]
    for address in chosen:
        assert it.judge(ipv6(OTHER, GUEST, address, OTHER_6), Towards.DONOR) is PASSED
    assert it.judge(solicit(OTHER, OTHER_6, chosen[-1]), Towards.RECIPIENT) is PASSED
    assert it.judge(solicit(OTHER, OTHER_6, chosen[0]), Towards.RECIPIENT) == Dropped(Reason.OTHER_ADDRESS)


def test_what_is_no_traffic() -> None:
    """What only keeps the segment together is told from packets between hosts."""
    packets = [
        ipv4(ROUTER, GUEST, GUEST_4, FAR_4),
        ipv6(ROUTER, GUEST, GUEST_6, FAR_6),
        ipv6(OTHER, GUEST, GUEST_6, FAR_6, b"\x80", 58),
    ]
    others = [
        who_has(GUEST, GUEST_4, ROUTER_4, to=ROUTER),
        reverse_arp(GUEST),
        advertise(ROUTER, GUEST, GUEST_6),
        ROUTER_SAYS,
    ]
    assert [is_control(frame) for frame in packets] == [False] * 3
    assert [is_control(memoryview(frame)) for frame in others] == [True] * 4


macs = st.sampled_from((GUEST, OTHER, ROUTER, BROADCAST, ALL, MDNS_4))
sources = st.sampled_from((GUEST, OTHER, ROUTER))
fours = st.sampled_from((GUEST_4, OTHER_4, ROUTER_4, FAR_4, NO_IPV4, BROADCAST_4))
sixes = st.sampled_from(
    (GUEST_6, OTHER_6, ROUTER_6, FAR_6, NO_IPV6, ALL_NODES, PRIVATE, ROUTER_LINK, link_local(GUEST))
)
bodies = st.binary(max_size=60) | st.builds(
    dhcp, st.sampled_from((67, 68)), st.sampled_from((67, 68)), st.sampled_from((GUEST, OTHER))
)
frames = st.one_of(
    st.binary(max_size=120),
    st.builds(ipv4, macs, sources, fours, fours, bodies, st.sampled_from((1, 6, 17))),
    st.builds(ipv6, macs, sources, sixes, sixes, bodies, st.sampled_from((0, 6, 17, 43, 44, 58, 60))),
    st.builds(
        arp, st.sampled_from(ArpOperation), sources, fours, fours, to=macs, target_mac=macs, sender_mac=st.none() | macs
    ),
    st.builds(solicit, sources, sixes, sixes, link=st.none() | sources),
    st.builds(advertise, macs, sources, sixes, link=st.none() | sources),
    st.builds(listeners, macs, sources, sixes, st.sampled_from((130, 131, 132, 143))),
    st.builds(build_ethernet, macs, sources, st.integers(0, 0xFFFF)),
)


@settings(max_examples=500)
@given(frames)
def test_nothing_of_another_vm_passes_to_the_recipient(frame: bytes) -> None:
    """What passes is for the card's MAC, or for a group and about the card, or from a gateway; never another's."""
    if judge(frame, Towards.RECIPIENT) is not PASSED:
        return
    assert frame[6:12] != GUEST
    assert frame[:6] == GUEST or frame[0] & 1
    if frame[:6] == GUEST:
        its_own = {b"\x08\x00": frame[30:34] == GUEST_4, b"\x86\xdd": frame[38:54] == GUEST_6}
        link = is_link_local(frame[38:54]) and frame[38:54] != ROUTER_LINK
        assert its_own.get(frame[12:14], True) or link or GUEST in frame[42:]
    else:
        about_the_card = any(each in frame[14:] for each in (GUEST, GUEST_4, GUEST_6, link_local(GUEST)))
        assert about_the_card or frame[6:12] == ROUTER or frame[62] == 130


@settings(max_examples=500)
@given(frames)
def test_only_the_card_speaks_to_the_donor(frame: bytes) -> None:
    """What passes is from the card's MAC and its own addresses, and never pretends to be a gateway."""
    verdict = judge(frame, Towards.DONOR)
    if verdict is not PASSED and not isinstance(verdict, Answered):
        return
    assert frame[6:12] == GUEST
    match frame[12:14]:
        case b"\x08\x00":
            assert frame[26:30] in {GUEST_4, NO_IPV4}
        case b"\x86\xdd":
            source = frame[22:38]
            assert source in {GUEST_6, NO_IPV6} or (is_link_local(source) and source != ROUTER_LINK)
        case _:
            assert frame[22:28] == GUEST
            assert frame[28:32] in {GUEST_4, NO_IPV4} or frame[12:14] == b"\x80\x35"


@settings(max_examples=300)
@given(st.lists(frames, max_size=20), st.sampled_from(Towards))
def test_it_never_raises(some: list[bytes], towards: Towards) -> None:
    """Whatever comes, in whatever order, there is a verdict; views and bytes are judged alike."""
    by_bytes, by_view = CardFilter(CARD), CardFilter(CARD)
    for frame in some:
        assert by_bytes.judge(frame, towards) == by_view.judge(memoryview(frame), towards)
        assert by_bytes.is_from_card(frame) == (frame[6:12] == GUEST)
