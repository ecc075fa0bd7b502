"""Translation tables: what they say, and that the kernel takes them and rewrites by them."""

from __future__ import annotations

import socket

import pytest

from services.node_agent.network.maker import StepMaker
from services.node_agent.network.steps import Address, Bridge
from services.node_agent.network.translate import away_tables, home_tables
from shared.messages.network import CareOf
from tests.support.own_network import needs_root, own_network

PAIRS = (CareOf(address="10.81.1.10", real="10.82.0.7"), CareOf(address="fd00:81:1::10", real="fd00:82::7"))


def test_each_family_has_a_table_of_its_own() -> None:
    away, home = away_tables("vmport_away_a", PAIRS), home_tables("vmport_home_a", PAIRS[:1])
    assert [(table.family, table.name) for table in away] == [("ip", "vmport_away_a"), ("ip6", "vmport_away_a")]
    assert [table.family for table in home] == ["ip"]
    assert away_tables("vmport_away_a", ()) == ()


def test_only_what_leaves_is_not_tracked() -> None:
    """At the recipient the firewall knows connections by the original address."""
    (away,), (home,) = away_tables("vmport_a", PAIRS[:1]), home_tables("vmport_a", PAIRS[:1])
    assert "notrack" in str(away.objects)
    assert "notrack" not in str(home.objects)


@needs_root
@pytest.mark.parametrize(
    ("family", "address", "real"),
    [(socket.AF_INET, "10.81.1.10", "10.82.0.7"), (socket.AF_INET6, "fd00:81:1::10", "fd00:82::7")],
)
async def test_what_is_sent_to_the_address_arrives_at_the_other(family: int, address: str, real: str) -> None:
    with own_network():
        maker = StepMaker()
        await maker.make([Bridge(name="vmbr0"), Address(device="lo", address=real)])
        await maker.make([Address(device="vmbr0", address="10.81.1.1" if family == socket.AF_INET else "fd00:81:1::1")])
        with socket.socket(family, socket.SOCK_DGRAM) as there, socket.socket(family, socket.SOCK_DGRAM) as here:
            there.bind((real, 7))
            there.settimeout(5)
            here.connect((real, 7))  # a route is needed to send at all
            await maker.make([*away_tables("vmport_away_a", PAIRS), Address(device="lo", address=address)])
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.sendto(b"hello", (address, 7))
                assert there.recvfrom(100)[0] == b"hello"
            assert await maker.undo(away_tables("vmport_away_a", PAIRS)) == ()
