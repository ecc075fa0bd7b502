"""Questions to a guest for the multicast groups that it listens to: IGMPv3 and MLDv2 general queries. Pure.

Its answers tell switches between it and the routers where it is now. The queries go to the guest alone, and come from
addresses that never win the election of a segment's querier: IPv4's unspecified one (RFC 4541, 2.1.1), and the highest
link-local IPv6 address.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from services.node_agent.network.frames import NO_IPV4, EtherType, build_ethernet
from services.node_agent.network.icmpv6 import ALL_NODES, ICMPV6, internet_checksum

ANSWER_WITHIN_S: Final = 1
ALL_HOSTS: Final = ipaddress.IPv4Address("224.0.0.1").packed
LAST_LINK_LOCAL: Final = ipaddress.IPv6Address("fe80::ffff:ffff:ffff:ffff").packed
_IGMP, _IGMP_QUERY, _MLD_QUERY = 2, 0x11, 130
_ROUTER_ALERT_4: Final = bytes((0x94, 4, 0, 0))
_HOP_BY_HOP: Final = bytes((ICMPV6, 0, 5, 2, 0, 0, 1, 0))
"""The next header, its length, the router alert of MLD, and padding."""
_QUERY_INTERVAL_S: Final = 125
_ROBUSTNESS: Final = 2


def igmp_query(guest: bytes, source: bytes) -> bytes:
    """A frame to the guest's MAC from `source`."""
    query = struct.pack(">BBH4sBBH", _IGMP_QUERY, 10 * ANSWER_WITHIN_S, 0, NO_IPV4, _ROBUSTNESS, _QUERY_INTERVAL_S, 0)
    query = query[:2] + internet_checksum(query).to_bytes(2) + query[4:]
    header = struct.pack(">BBHHHBBH4s4s", 0x46, 0xC0, 24 + len(query), 0, 0, 1, _IGMP, 0, NO_IPV4, ALL_HOSTS)
    header += _ROUTER_ALERT_4
    header = header[:10] + internet_checksum(header).to_bytes(2) + header[12:]
    return build_ethernet(guest, source, EtherType.IPV4) + header + query


def mld_query(guest: bytes, source: bytes) -> bytes:
    """The same of IPv6."""
    query = struct.pack(
        ">BBHHH16sBBH", _MLD_QUERY, 0, 0, 1000 * ANSWER_WITHIN_S, 0, bytes(16), _ROBUSTNESS, _QUERY_INTERVAL_S, 0
    )
    pseudo = LAST_LINK_LOCAL + ALL_NODES + struct.pack(">II", len(query), ICMPV6)
    query = query[:2] + internet_checksum(pseudo + query).to_bytes(2) + query[4:]
    payload = _HOP_BY_HOP + query
    header = struct.pack(">IHBB16s16s", 6 << 28, len(payload), 0, 1, LAST_LINK_LOCAL, ALL_NODES)
    return build_ethernet(guest, source, EtherType.IPV6) + header + payload
