"""Steps in the kernel: made twice, found, undone twice; nothing remains."""

from __future__ import annotations

from collections.abc import Iterator

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
from services.node_agent.network.steps import Bridge, Route
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


async def test_what_cannot_be_made_is_named_and_what_cannot_be_undone_hides_nothing() -> None:
    maker = StepMaker()
    with pytest.raises(NetlinkError, match="no device vmp9"):
        await maker.make([Route(destination="10.0.0.1/32", device="vmp9")])
    await maker.make([Bridge(name=BRIDGE)])
    assert await maker.undo([Bridge(name=BRIDGE), Route(destination="10.0.0.1/32", device="vmp9")]) == ()
