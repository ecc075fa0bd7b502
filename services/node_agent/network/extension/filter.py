"""Which frames pass an extension: those of one card and no others. Pure.

Theory of operation
-------------------
The donor's end stands in a network with other hosts; the recipient's end beside the card alone. Each end judges what it
reads from its own network and, by the same rules, what the other end sends: neither believes the other.

To the recipient pass
    frames for the card's MAC and its addresses, except those that lie about a gateway or claim the card's own address;
    ARP requests and neighbour solicitations for the card's addresses;
    what its gateways say of themselves: announcements, router advertisements;
    DHCP answers for this MAC, and queries for multicast listeners.
To the donor pass
    frames of the card's MAC from its own addresses, to one host;
    its ARP requests within its segment, announcements and duplicate checks of its own addresses;
    RARP, router solicitations, DHCP and DHCPv6 requests, multicast listeners' reports.
A question of the card for a gateway's MAC is answered here with the agreed one and does not pass.
All else is dropped with a reason: other hosts' frames, other broadcast and multicast, VLAN tags, other types.

An IPv6 link-local address is the guest's own choice, so any passes as source that is no gateway's. What the card uses
is remembered, up to `MAX_LEARNED`, so that others can ask for it.
"""

from __future__ import annotations

from typing import Final

from services.node_agent.network.extension.card import Card
from services.node_agent.network.extension.verdict import DROPPED, PASSED, Answered, Reason, Towards, Verdict
from services.node_agent.network.frames import (
    BROADCAST,
    NO_IPV4,
    Arp,
    ArpOperation,
    FrameError,
    arp_reply,
    parse_arp,
)
from services.node_agent.network.icmpv6 import (
    ICMPV6,
    NO_IPV6,
    Icmpv6,
    Icmpv6Type,
    Neighbour,
    is_link_local,
    neighbour_answer,
    neighbour_of,
    parse_icmpv6,
    parse_router_advertisement,
)

MAX_LEARNED: Final = 8
_HEAD_BYTES: Final = 54
"""Ethernet and IPv6."""
_SLOW_BYTES: Final = 2048
"""No frame that must be read as a whole is longer."""
_IPV4, _IPV6, _ARP, _RARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x80\x35"
_UDP: Final = 17
_DHCP_SERVER, _DHCP_CLIENT, _DHCP6_CLIENT, _DHCP6_SERVER = 67, 68, 546, 547
_DHCP_MAC_AT: Final = 8 + 28
"""In a UDP datagram."""
_OPTION_HEADERS: Final = {0, 43, 60}
"""Hop-by-hop options, routing, destination options."""
_MULTICAST_REPORTS: Final = {
    Icmpv6Type.MULTICAST_REPORT,
    Icmpv6Type.MULTICAST_DONE,
    Icmpv6Type.MULTICAST_REPORT_2,
}
_SEGMENT: Final = range(Icmpv6Type.MULTICAST_QUERY, Icmpv6Type.REDIRECT + 1)
"""Listeners and neighbour discovery."""
_DISCOVERY: Final = range(Icmpv6Type.ROUTER_SOLICITATION, Icmpv6Type.REDIRECT + 1)


class CardFilter:
    """Judges the frames of one card."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._macs = card.macs
        self._addresses = card.addresses
        self._gateway_macs = frozenset(card.gateways.values())
        self._learned: dict[bytes, None] = {}

    def is_from_card(self, frame: bytes | memoryview) -> bool:
        """Whether the card's MAC is its source, whatever it carries."""
        return bytes(frame[6:12]) in self._macs

    def judge(self, frame: bytes | memoryview, towards: Towards) -> Verdict:
        """What becomes of a frame, without its offload header. Never raises."""
        head = bytes(frame[:_HEAD_BYTES])
        if len(head) < 34 or head[6] & 1:  # an IPv4 header's end; ARP is longer
            return DROPPED[Reason.MALFORMED]
        try:
            if towards is Towards.DONOR:
                return self._to_donor(head, frame)
            return self._to_recipient(head, frame)
        except FrameError:
            return DROPPED[Reason.MALFORMED]

    # To the donor ---------------------------------------------------------------------------------------------------

    def _to_donor(self, head: bytes, frame: bytes | memoryview) -> Verdict:
        to, kind = head[:6], head[12:14]
        if head[6:12] not in self._macs:
            return DROPPED[Reason.OTHER_MAC]
        if to in self._macs:
            return DROPPED[Reason.OWN]
        if kind == _IPV4:
            return self._ipv4_to_donor(head, frame)
        if kind == _IPV6:
            return self._ipv6_to_donor(head, frame)
        if kind in {_ARP, _RARP}:
            return self._arp_to_donor(parse_arp(_whole(frame)))
        return DROPPED[Reason.TYPE]

    def _ipv4_to_donor(self, head: bytes, frame: bytes | memoryview) -> Verdict:
        if head[14] >> 4 != 4:
            return DROPPED[Reason.MALFORMED]
        own = head[26:30] in self._addresses
        if own and not head[0] & 1:
            return PASSED
        if (own or head[26:30] == NO_IPV4) and self._is_dhcp(head, frame, _DHCP_CLIENT, _DHCP_SERVER):
            return PASSED
        return self._group(head) if own else DROPPED[Reason.OTHER_ADDRESS]

    def _arp_to_donor(self, arp: Arp) -> Verdict:
        if arp.sender_mac != arp.source:
            return DROPPED[Reason.OTHER_MAC]
        if arp.is_reverse:
            return PASSED if arp.target_mac in self._macs else DROPPED[Reason.OTHER_MAC]
        own = arp.sender in self._addresses
        if arp.operation is ArpOperation.REPLY:
            return PASSED if own else self._foreign(arp.sender)
        if arp.sender == NO_IPV4:  # a check for a duplicate
            return PASSED if arp.target in self._addresses else DROPPED[Reason.OTHER_ADDRESS]
        if not own:
            return self._foreign(arp.sender)
        mac = self.card.gateways.get(arp.target)
        if mac is not None:
            return Answered(arp_reply(arp, mac))
        return PASSED if self.card.is_on_link(arp.target) else DROPPED[Reason.OTHER_ADDRESS]

    def _ipv6_to_donor(self, head: bytes, frame: bytes | memoryview) -> Verdict:
        if len(head) < _HEAD_BYTES or head[14] >> 4 != 6:
            return DROPPED[Reason.MALFORMED]
        source = head[22:38]
        own = source in self._addresses or self._is_own_choice(source)
        if not own and source != NO_IPV6:
            return self._foreign(source)
        if is_link_local(source) and source not in self._addresses:
            self._learn(source)
        if _is_discovery(head, frame):
            return self._discovery_to_donor(parse_icmpv6(_whole(frame)))
        if _listener_message(head, frame) in _MULTICAST_REPORTS:
            return PASSED
        if source == NO_IPV6:
            return DROPPED[Reason.OTHER_ADDRESS]
        if not head[0] & 1:
            return PASSED
        ports = _udp_ports(frame, _HEAD_BYTES) if head[20] == _UDP else None
        return PASSED if ports == (_DHCP6_CLIENT, _DHCP6_SERVER) else self._group(head)

    def _discovery_to_donor(self, message: Icmpv6) -> Verdict:
        if message.type == Icmpv6Type.ROUTER_SOLICITATION:
            return PASSED
        if message.type in {Icmpv6Type.ROUTER_ADVERTISEMENT, Icmpv6Type.REDIRECT}:
            return DROPPED[Reason.GATEWAY]
        found = neighbour_of(message)
        if found.link is not None and found.link != found.source:
            return DROPPED[Reason.OTHER_MAC]
        own = found.target in self._addresses or self._is_own_choice(found.target)
        if found.advertises:
            return PASSED if own and found.from_address != NO_IPV6 else self._foreign(found.target)
        if found.from_address == NO_IPV6:  # a check for a duplicate
            return PASSED if own and found.link is None else self._foreign(found.target)
        mac = self.card.gateways.get(found.target)
        if mac is not None:
            return Answered(neighbour_answer(found, mac, router=True))
        return PASSED if self.card.is_on_link(found.target) else DROPPED[Reason.OTHER_ADDRESS]

    # To the recipient -----------------------------------------------------------------------------------------------

    def _to_recipient(self, head: bytes, frame: bytes | memoryview) -> Verdict:
        to, kind = head[:6], head[12:14]
        if head[6:12] in self._macs:
            return DROPPED[Reason.OWN]
        group = bool(to[0] & 1)
        if not group and to not in self._macs:
            return DROPPED[Reason.OTHER_MAC]
        if kind == _IPV4:
            return self._ipv4_to_recipient(head, frame, group=group)
        if kind == _IPV6:
            return self._ipv6_to_recipient(head, frame, group=group)
        if kind == _ARP:
            return self._arp_to_recipient(parse_arp(_whole(frame)))
        return DROPPED[Reason.TYPE]

    def _ipv4_to_recipient(self, head: bytes, frame: bytes | memoryview, *, group: bool) -> Verdict:
        if head[14] >> 4 != 4:
            return DROPPED[Reason.MALFORMED]
        if not group and head[30:34] in self._addresses:
            return PASSED
        if self._is_dhcp(head, frame, _DHCP_SERVER, _DHCP_CLIENT):
            return PASSED
        return self._group(head) if group else DROPPED[Reason.OTHER_ADDRESS]

    def _arp_to_recipient(self, arp: Arp) -> Verdict:
        if arp.sender in self._addresses:
            return DROPPED[Reason.CONFLICT]
        gateway = self.card.gateways.get(arp.sender)
        if gateway is not None and (arp.sender_mac != gateway or arp.source != gateway):
            return DROPPED[Reason.GATEWAY]
        if arp.target in self._addresses:
            return PASSED
        return PASSED if gateway is not None and arp.target == arp.sender else DROPPED[Reason.OTHER_ADDRESS]

    def _ipv6_to_recipient(self, head: bytes, frame: bytes | memoryview, *, group: bool) -> Verdict:
        if len(head) < _HEAD_BYTES or head[14] >> 4 != 6:
            return DROPPED[Reason.MALFORMED]
        to_address = head[38:54]
        if not group and to_address not in self._addresses and not self._is_own_choice(to_address):
            return DROPPED[Reason.OTHER_ADDRESS]
        if _is_discovery(head, frame):
            return self._discovery_to_recipient(_whole(frame), group=group)
        if not group or _listener_message(head, frame) == Icmpv6Type.MULTICAST_QUERY:
            return PASSED
        return self._group(head)

    def _discovery_to_recipient(self, frame: bytes, *, group: bool) -> Verdict:
        message = parse_icmpv6(frame)
        if message.type in {Icmpv6Type.ROUTER_ADVERTISEMENT, Icmpv6Type.REDIRECT}:
            if message.type == Icmpv6Type.ROUTER_ADVERTISEMENT:
                parse_router_advertisement(frame)
            known = self.card.gateways.get(message.from_address, message.source)
            agreed = message.source in self._gateway_macs and message.source == known
            return PASSED if agreed else DROPPED[Reason.GATEWAY]
        if message.type == Icmpv6Type.ROUTER_SOLICITATION:
            return DROPPED[Reason.MULTICAST] if group else PASSED
        return self._neighbour_to_recipient(neighbour_of(message), group=group)

    def _neighbour_to_recipient(self, found: Neighbour, *, group: bool) -> Verdict:
        own = found.target in self._addresses or found.target in self._learned
        if not found.advertises:
            return PASSED if own or not group else DROPPED[Reason.OTHER_ADDRESS]
        if own:
            return DROPPED[Reason.CONFLICT]
        gateway = self.card.gateways.get(found.target)
        if gateway is not None and (found.source != gateway or found.link not in {None, gateway}):
            return DROPPED[Reason.GATEWAY]
        return PASSED if gateway is not None or not group else DROPPED[Reason.OTHER_ADDRESS]

    # Both -----------------------------------------------------------------------------------------------------------

    def _is_dhcp(self, head: bytes, frame: bytes | memoryview, source: int, destination: int) -> bool:
        """Whether it is DHCP in this direction for the card's MAC; never of a fragment."""
        starts_at = 14 + 4 * (head[14] & 15)
        if head[23] != _UDP or (int.from_bytes(head[20:22]) & 0x3FFF):
            return False
        if head[:6] != BROADCAST and head[:6] not in self._macs:
            return False
        mac_at = starts_at + _DHCP_MAC_AT
        return _udp_ports(frame, starts_at) == (source, destination) and bytes(frame[mac_at : mac_at + 6]) in self._macs

    def _is_own_choice(self, address: bytes) -> bool:
        return is_link_local(address) and address not in self.card.gateways

    def _foreign(self, address: bytes) -> Verdict:
        return DROPPED[Reason.GATEWAY if address in self.card.gateways else Reason.OTHER_ADDRESS]

    def _learn(self, address: bytes) -> None:
        self._learned.pop(address, None)
        self._learned[address] = None
        if len(self._learned) > MAX_LEARNED:
            del self._learned[next(iter(self._learned))]

    @staticmethod
    def _group(head: bytes) -> Verdict:
        return DROPPED[Reason.BROADCAST if head[:6] == BROADCAST else Reason.MULTICAST]


def is_control(frame: bytes | memoryview) -> bool:
    """Whether a frame that passed only keeps the segment together (ARP, neighbour discovery, anything to a group), and
    is no traffic between the card and another host.
    """
    head = bytes(frame[: _HEAD_BYTES + 1])
    if head[0] & 1 or head[12:14] in {_ARP, _RARP}:
        return True
    return head[12:14] == _IPV6 and len(head) > _HEAD_BYTES and head[20] == ICMPV6 and head[_HEAD_BYTES] in _SEGMENT


def _whole(frame: bytes | memoryview) -> bytes:
    """A frame that is read as a whole. Raises FrameError for one that is longer than any of its kind."""
    if len(frame) > _SLOW_BYTES:
        raise FrameError(f"a frame of {len(frame)} bytes is too long for its kind")
    return bytes(frame)


def _udp_ports(frame: bytes | memoryview, starts_at: int) -> tuple[int, int] | None:
    ports = bytes(frame[starts_at : starts_at + 4])
    return (int.from_bytes(ports[:2]), int.from_bytes(ports[2:])) if len(ports) == 4 else None


def _is_discovery(head: bytes, frame: bytes | memoryview) -> bool:
    """Whether it is neighbour discovery, also behind other headers, where it does not belong and is not read."""
    following, at = head[20], _HEAD_BYTES
    while following in _OPTION_HEADERS and at + 2 <= len(frame):
        following, at = frame[at], at + 8 + 8 * frame[at + 1]
    return following == ICMPV6 and at < len(frame) and frame[at] in _DISCOVERY


def _listener_message(head: bytes, frame: bytes | memoryview) -> int | None:
    """The type of a multicast listener's message: ICMPv6 behind one hop-by-hop option header (RFC 3810, 5)."""
    if head[20] != 0 or not head[0] & 1:
        return None
    options = bytes(frame[_HEAD_BYTES : _HEAD_BYTES + 9])
    return options[8] if len(options) == 9 and options[0] == ICMPV6 and options[1] == 0 else None
