"""What a node finds before a port: bridge netfilter, and addresses that somebody has already."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from services.node_agent.network.address_probe import NOBODYS
from services.node_agent.network.netlink import Netlink
from services.node_agent.network.preflight import bridge_netfilter, own_conflicts, preflight
from shared.messages.network import NetworkMode, NetworkPlan
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import GUEST_MAC, plan
from tests.support.own_network import needs_root, own_network

JOINED = plan(NetworkMode.JOINED)


@pytest.mark.parametrize(("value", "found"), [("1", True), ("0", False), (None, False)])
def test_bridge_netfilter(tmp_path: Path, value: str | None, *, found: bool) -> None:
    """Where it is on, it is said how to have it off."""
    if value is not None:
        (tmp_path / "bridge-nf-call-iptables").write_text(f"{value}\n")
    findings = bridge_netfilter(tmp_path)
    assert bool(findings) is found
    assert not found or "set net.bridge.bridge-nf-call-iptables=0" in findings[0]


@pytest.fixture
def _network() -> Iterator[None]:
    with own_network():
        yield


@needs_root
@pytest.mark.usefixtures("_network")
async def test_an_address_that_somebody_else_has(tmp_path: Path) -> None:
    """The guest itself answers, too, since the networks are one."""

    async def ask(
        mac: str, side: Side = Side.INBOUND, mode: NetworkMode = NetworkMode.JOINED, *, for_all: bool = False
    ) -> tuple[str, ...]:
        async def probe(bridge: str, addresses: Iterable[str]) -> dict[str, set[str]]:
            assert bridge == "vmbr0"
            wanted = list(addresses)
            return {address: {mac} for address in (wanted if for_all else wanted[:1])}

        return await preflight(plan(mode), side, probe=probe, bridge_settings=tmp_path)

    assert await ask(GUEST_MAC) == ()
    (finding,) = await ask("02:00:00:00:00:99")
    assert finding == "address_taken: 10.81.1.10 is claimed by 02:00:00:00:00:99 on vmbr0"
    (finding,) = await ask("02:00:00:00:00:99", for_all=True)
    assert finding.startswith("claims_everything: 02:00:00:00:00:99 answers for all addresses on vmbr0")
    assert await ask("02:00:00:00:00:99", Side.OUTBOUND) == ()
    assert await ask("02:00:00:00:00:99", mode=NetworkMode.TRANSLATE) == ()


async def has(address: str, *, on: str = "vmbr0") -> None:
    async with Netlink() as kernel:
        await kernel.add_bridge(on, mac=None, mtu=1500)
    done = await asyncio.create_subprocess_exec("ip", "address", "add", address, "dev", on)
    assert await done.wait() == 0


@needs_root
@pytest.mark.usefixtures("_network")
async def test_a_probe_that_fails_is_a_finding(tmp_path: Path) -> None:
    async def broken(_bridge: str, _addresses: Iterable[str]) -> dict[str, set[str]]:
        raise PermissionError(1, "Operation not permitted")

    found = await preflight(JOINED, Side.INBOUND, probe=broken, bridge_settings=tmp_path)
    assert found == ("address_not_probed: [Errno 1] Operation not permitted",)


async def nobody(_device: str, _addresses: Iterable[str]) -> dict[str, set[str]]:
    return {}


ANNOUNCED = plan(NetworkMode.EXTEND, announce=True)
TRANSLATED = plan(NetworkMode.TRANSLATE)


@needs_root
@pytest.mark.usefixtures("_network")
@pytest.mark.parametrize(
    ("agreed", "device", "taken"),
    [
        (JOINED, "vmbr0", True),
        (JOINED, "br9", False),
        (TRANSLATED, "br9", True),
        (plan(NetworkMode.ANCHOR), "br9", True),
        (ANNOUNCED, "br9", True),
        (plan(NetworkMode.EXTEND), "br9", False),
    ],
)
async def test_an_address_of_this_host_itself(tmp_path: Path, agreed: NetworkPlan, device: str, *, taken: bool) -> None:
    """In joined networks on the card's bridge, and anywhere where this host routes to the VM; an extended card is on a
    wire of its own.
    """
    await has("10.81.1.10/32", on=device)
    says = (f"address_taken: 10.81.1.10 is this host's own on {device}",)
    assert await own_conflicts(agreed) == (says if taken else ())
    found = await preflight(agreed, Side.INBOUND, probe=nobody, bridge_settings=tmp_path)
    assert found == (says if taken else ())


@needs_root
@pytest.mark.usefixtures("_network")
async def test_a_routed_address_is_asked_for_where_this_hosts_own_prefixes_are(tmp_path: Path) -> None:
    """Two providers may use the same private prefix: a host of the recipient's may have the VM's address."""
    await has("10.81.1.1/24", on="lan0")
    await has("198.51.100.1/24", on="wan0")

    async def probe(bridge: str, addresses: Iterable[str]) -> dict[str, set[str]]:
        assert (bridge, list(addresses)) == ("lan0", ["10.81.1.10", *NOBODYS.values()])
        return {"10.81.1.10": {"02:00:00:00:00:99"}}

    says = ("address_claimed: 10.81.1.10 is claimed by 02:00:00:00:00:99 on lan0",)
    for agreed, found in ((TRANSLATED, says), (ANNOUNCED, says), (plan(), ())):
        assert await preflight(agreed, Side.INBOUND, probe=probe, bridge_settings=tmp_path) == found
    assert await preflight(TRANSLATED, Side.OUTBOUND, probe=probe, bridge_settings=tmp_path) == ()
