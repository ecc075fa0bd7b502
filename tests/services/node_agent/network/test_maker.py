"""Steps in the kernel: made twice, found, undone twice; nothing remains."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from services.node_agent.network.maker import TAP_QUEUE, StepMaker
from services.node_agent.network.netlink import Netlink, NetlinkError
from services.node_agent.network.nft import Nft, NftError
from services.node_agent.network.plan import (
    donor_routes_away,
    recipient_announces,
    recipient_prepares,
    recipient_routes,
)
from services.node_agent.network.steps import Bridge, Queue, Route
from services.node_agent.network.tap import Tap
from services.node_agent.network.translate import home_tables
from shared.messages.network import FirewallRule, NetworkMode
from tests.services.node_agent.network.plans import BRIDGE, CARE_OF, PORT, plan
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


async def test_a_queue_is_shortened_and_as_long_as_ever_again() -> None:
    """Also where the device is gone meanwhile."""
    maker, step = StepMaker(), Queue(device="vnet7", frames=256)
    tap = Tap("vnet7")
    await maker.make([Bridge(name=BRIDGE)])
    async with Netlink() as kernel:
        await kernel.join_bridge("vnet7", BRIDGE)
    assert await maker.taps(BRIDGE) == ("vnet7",)
    assert await maker.taps("vmp0") == ()
    for _ in range(2):
        await maker.make([step])
    assert _queue("vnet7") == 256
    assert await maker.missing([step]) == ()
    assert await maker.undo([step]) == ()
    assert _queue("vnet7") == TAP_QUEUE
    tap.close()
    assert await maker.undo([step]) == ()
    with pytest.raises(NetlinkError, match="no device vnet7"):
        await maker.make([step])


def _queue(device: str) -> int:
    shown = subprocess.run(["ip", "-j", "link", "show", device], check=True, capture_output=True).stdout
    return int(json.loads(shown)[0]["txqlen"])


async def test_several_tables_go_in_one_batch_and_one_that_cannot_does_not_hold_up_the_others() -> None:
    """Each start of the program costs more than what it does."""
    nft = CountingNft()
    maker = StepMaker(nft)
    tables = home_tables("vmport_t", CARE_OF)
    assert len(tables) == 2
    await maker.make(tables)
    assert await maker.undo(tables) == ()
    assert nft.batches == 2
    await maker.make(tables)
    nft.refused = tables[0].family
    (left,) = await maker.undo(tables)
    assert str(tables[0]) in left
    assert await Nft().tables() == ((tables[0].family, "vmport_t"),)


class CountingNft(Nft):
    """Counts what it does; what is about one family, it refuses to delete."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.refused = ""

    async def apply(self, commands: Sequence[Mapping[str, Any]]) -> None:
        self.batches += 1
        if self.refused and any(
            each.get("delete", {}).get("table", {}).get("family") == self.refused for each in commands
        ):
            raise NftError("refused")
        await super().apply(commands)


async def test_what_cannot_be_made_is_named_and_what_cannot_be_undone_hides_nothing() -> None:
    maker = StepMaker()
    with pytest.raises(NetlinkError, match="no device vmp9"):
        await maker.make([Route(destination="10.0.0.1/32", device="vmp9")])
    await maker.make([Bridge(name=BRIDGE)])
    assert await maker.undo([Bridge(name=BRIDGE), Route(destination="10.0.0.1/32", device="vmp9")]) == ()
