"""What a node finds before a port: bridge netfilter, and addresses that somebody has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from services.node_agent.network.netlink import Netlink
from services.node_agent.network.preflight import bridge_netfilter, preflight
from shared.messages.network import NetworkMode
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


@needs_root
@pytest.mark.usefixtures("_network")
async def test_this_hosts_own_address_and_a_probe_that_fails(tmp_path: Path) -> None:
    async with Netlink() as kernel:
        await kernel.add_bridge("vmbr0", mac=None, mtu=1500)
        await kernel.add_address("vmbr0", "10.81.1.10")

    async def nobody(_bridge: str, _addresses: Iterable[str]) -> dict[str, set[str]]:
        return {}

    async def broken(_bridge: str, _addresses: Iterable[str]) -> dict[str, set[str]]:
        raise PermissionError(1, "Operation not permitted")

    (own,) = await preflight(JOINED, Side.INBOUND, probe=nobody, bridge_settings=tmp_path)
    assert own == "address_taken: 10.81.1.10 is this host's own on vmbr0"
    found = await preflight(JOINED, Side.INBOUND, probe=broken, bridge_settings=tmp_path)
    assert "address_not_probed: [Errno 1] Operation not permitted" in found
