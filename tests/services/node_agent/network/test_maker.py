"""Steps in the kernel: made twice, found, undone twice; nothing remains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import Netlink, NetlinkError
from services.node_agent.network.nft import Nft
from services.node_agent.network.plan import (
    donor_routes_away,
    recipient_announces,
    recipient_prepares,
    recipient_routes,
)
from services.node_agent.network.steps import Bridge, ProxyNeighbour, Route
from shared.messages.network import FirewallRule, NetworkMode
from tests.services.node_agent.network.plans import BRIDGE, PORT, plan
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root
RULES = (
    FirewallRule(direction="in", action="accept", protocol="tcp", first_port=22, last_port=443, remote="192.0.2.0/24"),
    FirewallRule(direction="in", action="accept", protocol="icmpv6"),
    FirewallRule(direction="out", action="drop", remote="2001:db8::/32"),
)


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


@pytest.mark.parametrize("mode", [NetworkMode.EXTEND, NetworkMode.TRANSLATE])
async def test_the_recipients_steps(mode: NetworkMode) -> None:
    agreed = plan(mode, announce=True, firewall=RULES)
    steps = (*recipient_prepares(agreed, PORT), *recipient_routes(agreed), *recipient_announces(agreed))
    maker = StepMaker()
    for _ in range(2):
        await maker.make(steps)

    assert await maker.missing(step for step in steps if not (isinstance(step, Bridge) and step.mac is None)) == ()
    for _ in range(2):
        assert await maker.undo(steps) == ()
    async with Netlink() as kernel:
        assert [link.name for link in await kernel.links()] == ["lo"]
        assert await kernel.routes(7070) == ()
    assert await Nft().tables() == ()


async def test_the_donors_steps() -> None:
    maker = StepMaker()
    await maker.make([Bridge(name="vmbr0")])
    steps = donor_routes_away(plan())
    for _ in range(2):
        await maker.make(steps)
    assert await maker.missing(steps) == ()
    assert await maker.undo(steps) == ()
    async with Netlink() as kernel:
        assert await kernel.proxies("vmbr0") == ()


def proxy_ndp() -> str:
    return Path("/proc/sys/net/ipv6/conf/vmbr0/proxy_ndp").read_text("ascii").strip()


async def test_a_providers_bridge_answers_solicitations_as_long_as_there_is_an_address_to_answer_for() -> None:
    """Of whichever port: the setting is the device's, which stays."""
    maker = StepMaker()
    await maker.make([Bridge(name="vmbr0")])
    first, other = (ProxyNeighbour(device="vmbr0", address=f"fd00:81:1::{number}") for number in (1, 2))
    seen = []
    for do, step in ((maker.make, first), (maker.make, other), (maker.undo, first), (maker.undo, other)):
        await do([step])
        seen.append(proxy_ndp())
    assert seen == ["1", "1", "1", "0"]
    await maker.undo([Bridge(name="vmbr0"), first])


async def test_what_cannot_be_made_is_named_and_what_cannot_be_undone_hides_nothing() -> None:
    maker = StepMaker()
    with pytest.raises(NetlinkError, match="no device vmp9"):
        await maker.make([Route(destination="10.0.0.1/32", device="vmp9")])
    await maker.make([Bridge(name=BRIDGE)])
    assert await maker.undo([Bridge(name=BRIDGE), Route(destination="10.0.0.1/32", device="vmp9")]) == ()
