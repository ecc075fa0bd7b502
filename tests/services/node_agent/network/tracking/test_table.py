"""Connections in the kernel's own table, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from services.node_agent.network.tracking.table import ConnectionTable, TrackingError
from services.node_agent.network.tracking.values import ConnectionKey, TrackedConnection
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root
GUEST = "10.81.1.10"
GUEST_6 = "fd00:81:1::10"
TABLE = ConnectionTable()


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


def connection(port: int = 40_000, **changes: Any) -> TrackedConnection:
    told = {
        "protocol": "tcp", "source": "203.0.113.5", "source_port": port, "destination": GUEST, "destination_port": 22,
        "timeout_s": 3600, "state": 3, "scales": (7, 8),
    }  # fmt: skip
    return TrackedConnection.model_validate({**told, **changes})


SIX: dict[str, Any] = {"source": GUEST_6, "destination": "2001:db8:c::5"}
UDP: dict[str, Any] = {"protocol": "udp", "state": 0, "scales": None}
SCTP: dict[str, Any] = {"protocol": "sctp", "scales": None, "tags": (7, 2**32 - 1)}


@pytest.mark.parametrize(
    "one",
    [connection(), connection(**SIX), connection(**UDP, assured=False), connection(**SCTP), connection(scales=None)],
)
async def test_what_is_inserted_is_read(one: TrackedConnection) -> None:
    """In both directions and families; a second time changes nothing, and counts as there."""
    inserted = await TABLE.insert([one])
    again = await TABLE.insert([one])

    assert (inserted.new, inserted.there, inserted.refused) == ((one.key,), 0, 0)
    assert (again.new, again.there, again.refused) == ((), 1, 0)
    (read,) = (await TABLE.read((GUEST, GUEST_6))).connections
    assert not read.differs(one)
    assert one.timeout_s - 5 <= read.timeout_s <= one.timeout_s
    assert (await TABLE.read(("10.81.1.11", "fd00:81:1::11"))).connections == ()


async def test_what_is_there_is_brought_up_to_date() -> None:
    await TABLE.insert([connection(state=2, assured=False, scales=None)])
    await TABLE.insert([connection()])
    (read,) = (await TABLE.read((GUEST,))).connections
    assert not read.differs(connection())


async def test_removed_twice() -> None:
    await TABLE.insert([connection(), connection(2)])
    for _ in range(2):
        await TABLE.delete([connection().key])
    assert [each.key for each in (await TABLE.read((GUEST,))).connections] == [connection(2).key]


async def test_many_are_fast_and_bounded() -> None:
    """A thousand in much less than a second; what is above the bound is told."""
    many = [connection(port) for port in range(1, 1001)]
    async with asyncio.timeout(5):
        assert len((await TABLE.insert(many)).new) == 1000
        found = await TABLE.read((GUEST,), most=600)
    assert (len(found.connections), found.too_many) == (600, 400)


async def test_ended_connections_are_not_carried() -> None:
    await TABLE.insert([connection(state=7)])
    assert (await TABLE.read((GUEST,))).connections == ()


def translate() -> None:
    """Rules that rewrite the destination of what goes to the guest, and the source of what it sends."""
    for address in ("10.99.0.1", "10.99.0.2", GUEST):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True, timeout=10)
    rules = f"""
        table ip n {{
          chain o {{ type nat hook output priority -100; ip daddr 10.99.0.1 udp dport 53 dnat to {GUEST}; }}
          chain p {{ type nat hook postrouting priority 100; ip saddr {GUEST} udp dport 99 snat to 10.99.0.2; }}
        }}"""
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True, timeout=10)


async def test_translated_connections_are_counted_and_not_carried() -> None:
    """Both what is rewritten to the VM's address, and what the VM sends by another."""
    translate()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("10.99.0.1", 53))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        guest.bind((GUEST, 0))
        guest.sendto(b"x", ("10.99.0.1", 99))
    found = await TABLE.read((GUEST,))
    assert (found.connections, found.translated) == ((), 2)


async def test_without_the_right_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(socket, "socket", refused)
    with pytest.raises(TrackingError, match="not available"):
        await TABLE.read((GUEST,))
    with pytest.raises(TrackingError, match="not available"):
        await TABLE.insert([connection()])
    with pytest.raises(TrackingError, match="not available"):
        await TABLE.delete([ConnectionKey("tcp", GUEST, 1, GUEST, 2)])
