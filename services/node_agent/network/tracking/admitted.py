"""Which of a donor's connections the VM's own firewall rules would have let begin. Pure.

What passes for established passes the firewall. So a donor that makes connections up could open the VM to anybody, and
what is taken from it is looked at as the first packet of each connection would be.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from services.node_agent.network.plan import addresses_of
from services.node_agent.network.tracking.values import TrackedConnection
from shared.messages.network import FirewallRule, NetworkPlan


def admitted(plan: NetworkPlan, connections: Iterable[TrackedConnection]) -> tuple[TrackedConnection, ...]:
    """Those that the rules of the VM's cards would let in or out."""
    rules = {address: card.card.firewall for card in plan.cards for address in addresses_of(card.card)}
    return tuple(each for each in connections if _passes(each, rules))


def _passes(connection: TrackedConnection, rules: dict[str, tuple[FirewallRule, ...]]) -> bool:
    """Between two cards of the VM both must agree; one that is of no card is left to others to judge."""
    out = _allows(rules.get(connection.source, ()), "out", connection, connection.destination)
    return out and _allows(rules.get(connection.destination, ()), "in", connection, connection.source)


def _allows(rules: tuple[FirewallRule, ...], direction: str, connection: TrackedConnection, remote: str) -> bool:
    """As the rules of `firewall`: the first that fits decides; what none accepts is dropped, if there are any."""
    mine = [rule for rule in rules if rule.direction == direction]
    action = next((rule.action for rule in mine if _fits(rule, connection, remote)), "drop")
    return not mine or action == "accept"


def _fits(rule: FirewallRule, connection: TrackedConnection, remote: str) -> bool:
    if rule.protocol not in {"any", connection.protocol}:
        return False
    if rule.protocol != "any" and not rule.first_port <= connection.destination_port <= rule.last_port:
        return False
    if rule.remote is None:
        return True
    network, address = ipaddress.ip_network(rule.remote), ipaddress.ip_address(remote)
    return network.version == address.version and address in network
