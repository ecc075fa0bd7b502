"""A donor's connections are taken as the VM's own firewall would have let them begin."""

from __future__ import annotations

import pytest

from services.node_agent.network.tracking.admitted import admitted
from services.node_agent.network.tracking.values import Protocol, TrackedConnection
from shared.messages.network import FirewallRule
from tests.services.node_agent.network.plans import plan

VM, CLIENT, OTHER = "10.81.1.10", "192.0.2.9", "198.51.100.9"
WEB = (
    FirewallRule(direction="in", action="accept", protocol="tcp", first_port=80, last_port=443),
    FirewallRule(direction="in", action="drop", remote="198.51.100.0/24"),
    FirewallRule(direction="in", action="accept", remote="2001:db8::/32"),
    FirewallRule(direction="in", action="accept", protocol="any", remote="192.0.2.0/28"),
)


def connection(source: str, destination: str, port: int, protocol: Protocol = "tcp") -> TrackedConnection:
    return TrackedConnection(
        protocol=protocol,
        source=source,
        source_port=40_000,
        destination=destination,
        destination_port=port,
        timeout_s=9,
    )


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        (connection(CLIENT, VM, 443), True),
        (connection(OTHER, VM, 443), True),
        (connection(OTHER, VM, 22), False),
        (connection(CLIENT, VM, 22), True),
        (connection("203.0.113.9", VM, 22), False),
        (connection("203.0.113.9", VM, 443, "udp"), False),
        (connection(CLIENT, VM, 5060, "sctp"), True),
        (connection("2001:db8::9", "fd00:81:1::10", 22), True),
        (connection(VM, OTHER, 22), True),
    ],
)
def test_the_first_rule_that_fits_decides(asked: TrackedConnection, *, passes: bool) -> None:
    """There are none for what the VM itself opens, so all of that passes."""
    assert admitted(plan(firewall=WEB), [asked]) == ((asked,) if passes else ())


def test_without_rules_all_pass() -> None:
    asked = [connection(OTHER, VM, 22), connection(VM, OTHER, 22)]
    assert admitted(plan(), asked) == tuple(asked)


def test_what_the_vm_may_not_open_is_not_taken() -> None:
    rules = (FirewallRule(direction="out", action="accept", remote="192.0.2.0/24"),)
    asked = [connection(VM, OTHER, 22), connection(VM, CLIENT, 22), connection(OTHER, VM, 22)]
    assert admitted(plan(firewall=rules), asked) == tuple(asked[1:])
