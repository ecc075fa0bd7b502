"""Translation of a VM's addresses at the edges, without a tunnel: tables of nftables. Pure.

After Kanada and Tarui, "A Network-Paging Based Method for Wide-Area Live-Migration of VMs" (ICOIN 2011): the VM keeps
its address, the routers at the edges hold a table from it to where the VM is, and the move is the change of one entry.

Who routes the address (the donor's gateway, or one of a neutral prefix) rewrites the destination of what comes for it
into an address of the recipient's (`away_table`); the recipient's host writes the original one back (`home_table`) and
routes it to the card's own bridge. What the guest sends leaves the recipient with its own address as the source, so no
entry is needed for answers; what is needed is a recipient whose network lets that source out.

Both are stateless: no connection is known at the donor, and none breaks by the change. Checksums are mended by the
kernel. What arrives for the guest is tracked at the recipient by its original address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Literal

from services.node_agent.network.steps import NftTable
from shared.messages.network import CareOf

_BEFORE_TRACKING = -310
TRANSLATED = "translated"
"""Name of each table's counter of packets."""
_FAMILIES: tuple[tuple[Literal["ip", "ip6"], int, str], ...] = (("ip", 4, "ipv4_addr"), ("ip6", 6, "ipv6_addr"))


def away_tables(name: str, pairs: Iterable[CareOf]) -> tuple[NftTable, ...]:
    """From the original addresses to where the VM is now, one table per family that has any."""
    return _tables(name, [(pair.address, pair.real) for pair in pairs], tracked=False)


def home_tables(name: str, pairs: Iterable[CareOf]) -> tuple[NftTable, ...]:
    """Back to the original addresses, at the host where the VM is."""
    return _tables(name, [(pair.real, pair.address) for pair in pairs], tracked=True)


def _tables(name: str, pairs: list[tuple[str, str]], *, tracked: bool) -> tuple[NftTable, ...]:
    found = []
    for family, version, kind in _FAMILIES:
        mine = [list(pair) for pair in pairs if ipaddress.ip_address(pair[0]).version == version]
        if mine:
            found.append(
                NftTable(family=family, name=name, objects=_objects(family, name, kind, mine, tracked=tracked))
            )
    return tuple(found)


def _objects(family: str, name: str, kind: str, pairs: list[list[str]], *, tracked: bool) -> tuple[dict[str, Any], ...]:
    here = {"family": family, "table": name}
    destination = {"payload": {"protocol": family, "field": "daddr"}}
    known = {"match": {"op": "==", "left": destination, "right": "@known"}}
    rewrite = {"mangle": {"key": destination, "value": {"map": {"key": destination, "data": "@places"}}}}
    rule = [known, {"counter": TRANSLATED}, *([] if tracked else [{"notrack": None}]), rewrite]
    objects: list[dict[str, Any]] = [
        {"set": {**here, "name": "known", "type": kind, "elem": [pair[0] for pair in pairs]}},
        {"counter": {**here, "name": TRANSLATED}},
        {"map": {**here, "name": "places", "type": kind, "map": kind, "elem": pairs}},
    ]
    # What this host itself sends is routed before it comes by, so it must be routed again.
    for chain, chain_type in (("prerouting", "filter"), ("output", "route")):
        hook = {"type": chain_type, "hook": chain, "prio": _BEFORE_TRACKING, "policy": "accept"}
        objects += [
            {"chain": {**here, "name": chain, **hook}},
            {"rule": {**here, "chain": chain, "expr": rule}},
        ]
    return tuple(objects)
