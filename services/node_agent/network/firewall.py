"""What guards a card on its own bridge: exactly its addresses, and its own rules, as one table of nftables. Pure.

The table is made before the guest runs here, so it holds from the first packet. Frames that stay on layer 2 (to and
from an extension) are filtered by the extension itself, which knows the same addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from services.node_agent.network.steps import NftTable
from shared.messages.network import CardPlan, FirewallRule, is_routable

_RAW = -300
_FILTER = 0
_NARROW = -150
_COUNT = -320
"""Before any translation: a packet that somebody else translated for the guest is not for its own address yet."""
ROUTED = "routed"
"""Name of the counter of packets for the guest's own addresses that others have routed to this host."""


def table_name(port_id: UUID, card: int) -> str:
    """Name of the table that guards a card."""
    return f"vmport_{port_id.hex[:10]}_{card}"


def guard_table(card: CardPlan, port_id: UUID, place: int) -> NftTable:
    """The table of one card; `place` is the card's in the VM."""
    name = table_name(port_id, place)
    objects = [
        _chain(name, "from_guest", "prerouting", _RAW),
        *(_rule(name, "from_guest", *rule) for rule in _own_addresses_only(card)),
        _chain(name, "to_host", "input", _FILTER),
        *(_rule(name, "to_host", *rule) for rule in _to_host(card)),
    ]
    # Where the way out is narrower than the guest's network, new connections fit it without waiting for ICMP.
    objects += [
        _chain(name, "fitted", "forward", _NARROW),
        *(_rule(name, "fitted", _device(side, card.bridge), *_fit_segments()) for side in ("iifname", "oifname")),
    ]
    objects += [
        {"counter": {"family": "inet", "table": name, "name": ROUTED}},
        _chain(name, "routed", "prerouting", _COUNT),
        *(_rule(name, "routed", *rule) for rule in _for_guest(card)),
    ]
    if card.card.firewall:
        objects += [_chain(name, "through", "forward", _FILTER), *_firewall(name, card)]
    return NftTable(family="inet", name=name, objects=tuple(objects))


def _own_addresses_only(card: CardPlan) -> Iterator[tuple[dict[str, Any], ...]]:
    for version, protocol in ((4, "ip"), (6, "ip6")):
        own: list[Any] = [a.address for a in card.card.addresses if ipaddress.ip_address(a.address).version == version]
        if version == 6:  # every guest has such an address, and asks for its own while it has none yet
            own += [_prefix("fe80::/10"), "::"]
        came = (_device("iifname", card.bridge), _compare("!=", _field(protocol, "saddr"), _set(own)))
        yield (*came, _DROP) if own else (_device("iifname", card.bridge), _is_family(version), _DROP)


def _fit_segments() -> tuple[dict[str, Any], ...]:
    """TCP's segments become as small as the ways there and back, by this host's routes; never larger."""
    opens = {"match": {"op": "in", "left": _field("tcp", "flags"), "right": "syn"}}
    size = {"tcp option": {"name": "maxseg", "field": "size"}}
    return (opens, {"mangle": {"key": size, "value": {"rt": {"key": "mtu"}}}})


def _for_guest(card: CardPlan) -> Iterator[tuple[dict[str, Any], ...]]:
    """What has come by another device than the card's own bridge, which an extension is on, too."""
    elsewhere = _compare("!=", {"meta": {"key": "iifname"}}, card.bridge)
    for version, protocol in ((4, "ip"), (6, "ip6")):
        own: list[Any] = [
            each.address
            for each in card.card.addresses
            if ipaddress.ip_address(each.address).version == version and is_routable(each.address)
        ]
        if own:
            yield (elsewhere, _compare("==", _field(protocol, "daddr"), _set(own)), {"counter": ROUTED})


def _to_host(card: CardPlan) -> Iterator[tuple[dict[str, Any], ...]]:
    """The guest may ask its gateway whether it is there, and nothing else of this host."""
    here = _device("iifname", card.bridge)
    yield (here, _compare("==", {"meta": {"key": "l4proto"}}, _set(["icmp", "ipv6-icmp"])), _ACCEPT)
    yield (here, _DROP)


def _firewall(name: str, card: CardPlan) -> Iterator[dict[str, Any]]:
    yield _rule(name, "through", _compare("in", {"ct": {"key": "state"}}, ["established", "related"]), _ACCEPT)
    for direction, device in (("in", "oifname"), ("out", "iifname")):
        rules = [rule for rule in card.card.firewall if rule.direction == direction]
        side = _device(device, card.bridge)
        for rule in rules:
            yield _rule(name, "through", side, *_matches(rule), {rule.action: None})
        if rules:
            yield _rule(name, "through", side, _DROP)


def _matches(rule: FirewallRule) -> Iterator[dict[str, Any]]:
    if rule.remote is not None:
        remote = ipaddress.ip_network(rule.remote)
        protocol = "ip" if remote.version == 4 else "ip6"
        yield _compare("==", _field(protocol, "saddr" if rule.direction == "in" else "daddr"), _prefix(rule.remote))
    if rule.protocol == "any":
        return
    protocols = {"icmpv6": "ipv6-icmp"}
    yield _compare("==", {"meta": {"key": "l4proto"}}, protocols.get(rule.protocol, rule.protocol))
    if rule.protocol in {"tcp", "udp"} and (rule.first_port, rule.last_port) != (0, 65_535):
        yield _compare("==", _field(rule.protocol, "dport"), {"range": [rule.first_port, rule.last_port]})


_DROP: dict[str, Any] = {"drop": None}
_ACCEPT: dict[str, Any] = {"accept": None}


def _chain(table: str, name: str, hook: str, priority: int) -> dict[str, Any]:
    kind = {"type": "filter", "hook": hook, "prio": priority, "policy": "accept"}
    return {"chain": {"family": "inet", "table": table, "name": name, **kind}}


def _rule(table: str, chain: str, *expressions: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": table, "chain": chain, "expr": list(expressions)}}


def _device(key: str, name: str) -> dict[str, Any]:
    return _compare("==", {"meta": {"key": key}}, name)


def _is_family(version: int) -> dict[str, Any]:
    return _compare("==", {"meta": {"key": "nfproto"}}, f"ipv{version}")


def _field(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _compare(operator: str, left: Any, right: Any) -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def _set(members: list[Any]) -> Any:
    return {"set": members}


def _prefix(network: str) -> dict[str, Any]:
    address, _, length = network.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}
