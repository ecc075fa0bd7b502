"""The extensions of a node's ports, with real devices in a network of the test's own."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.link import LaneLink
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.extension.ports import ExtensionFailed, PortExtensions
from services.node_agent.network.netlink import NetlinkError
from shared.messages.network import CardPlan
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.topology import Lane
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, card, plan
from tests.support.extension_pair import eventually
from tests.support.lane_credentials import Pair, make_pair
from tests.support.namespaces import ip
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root

FORGOTTEN: list[UUID] = []
DEVICE = "vmx123456789a0"


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two node agents."""
    return make_pair(Path(tmp_path_factory.mktemp("lane")))


@pytest.fixture
def bridge() -> Iterator[str]:
    """The card's own bridge, in a network that is gone afterwards."""
    with own_network():
        ip("link", "add", BRIDGE, "type", "bridge")
        yield BRIDGE


def agreed(credentials: Pair) -> ServiceChangeAgreement:
    """One that names these two nodes."""
    donor, recipient = credentials.donor.keys.endpoint, credentials.recipient.keys.endpoint
    return agreement(plan()).model_copy(update={"donor_lane": donor, "recipient_lane": recipient})


def is_port_of(bridge: str) -> bool:
    """Whether the extension's device is in this bridge."""
    shown = subprocess.run(["ip", "link", "show", "master", bridge], check=True, capture_output=True, text=True)
    return f" {DEVICE}:" in shown.stdout


def exists() -> bool:
    """Whether the device is there at all."""
    return subprocess.run(["ip", "link", "show", DEVICE], check=False, capture_output=True).returncode == 0


@asynccontextmanager
async def extensions(credentials: Pair, asked: list[LaneEnd]) -> AsyncIterator[PortExtensions]:
    """Of the recipient's node; nobody is at the other end."""

    async def make_link(end: LaneEnd, lane: Lane) -> LaneLink:
        assert lane is Lane.EXTENSION
        asked.append(end)
        return MemoryRoute().b

    metrics = NodeMetrics(CollectorRegistry())
    made = PortExtensions(make_link, credentials.recipient.keys, forget=FORGOTTEN.append, metrics=metrics, again_s=0.05)
    try:
        yield made
    finally:
        await made.close_all()


async def test_it_is_open_until_it_is_closed(credentials: Pair, bridge: str) -> None:
    """Its device is in the card's bridge, its lane has an id of its own; opening twice does nothing more."""
    asked: list[LaneEnd] = []
    async with extensions(credentials, asked) as mine:
        for _ in range(2):
            await mine.open(agreed(credentials), Side.INBOUND, activated=False)
        assert is_port_of(bridge)
        await eventually(lambda: bool(asked))
        assert [end.port_id for end in asked] == [PORT]
        stats = mine.stats(PORT)
        assert stats is not None
        assert list(stats.cards) == [0]
        idle_s = mine.idle_s(PORT)
        assert idle_s is not None
        assert idle_s < 10
        FORGOTTEN.clear()
        for _ in range(2):
            await mine.close(PORT)
        assert FORGOTTEN == [PORT]
        assert (exists(), mine.stats(PORT), mine.idle_s(PORT)) == (False, None, None)


async def test_a_device_that_was_taken_away_is_made_again(credentials: Pair, bridge: str) -> None:
    """It is in its bridge again as soon as that is possible, also when the bridge itself was away."""
    async with extensions(credentials, []) as mine:
        await mine.open(agreed(credentials), Side.INBOUND, activated=True)
        ip("link", "del", bridge)
        ip("link", "del", DEVICE)
        await asyncio.sleep(0.2)
        assert not exists()
        ip("link", "add", bridge, "type", "bridge")
        await eventually(lambda: is_port_of(bridge))
        await eventually(lambda: mine.stats(PORT) is not None)
        stats = mine.stats(PORT)
        assert stats is not None
        assert stats.cards[0].activated


async def test_its_gate_opens_by_word(credentials: Pair, bridge: str) -> None:
    """At once after the opening, or while its device is away: the word is kept until it is closed."""
    async with extensions(credentials, []) as mine:

        def is_open() -> bool:
            stats = mine.stats(PORT)
            return stats is not None and stats.cards[0].activated

        await mine.open(agreed(credentials), Side.INBOUND, activated=False)
        mine.activate(PORT)
        await eventually(is_open)
        mine.deactivate(PORT)
        assert not is_open()
        mine.activate(PORT)
        assert is_open()
        await mine.close(PORT)
        mine.deactivate(PORT)
        await mine.open(agreed(credentials), Side.INBOUND, activated=False)
        await eventually(lambda: mine.stats(PORT) is not None)
        assert not is_open()
        ip("link", "del", DEVICE)
        await eventually(lambda: mine.stats(PORT) is None)
        mine.activate(PORT)
        await eventually(is_open)
        assert is_port_of(bridge)


async def test_what_cannot_be_made_leaves_nothing(credentials: Pair, bridge: str) -> None:
    """No plan, no bridge in the plan, no such bridge here: each is said, and no device stays."""
    async with extensions(credentials, []) as mine:
        with pytest.raises(ExtensionFailed, match="no plan"):
            await mine.open(agreed(credentials).model_copy(update={"network": None}), Side.INBOUND, activated=False)
        nowhere = plan().model_copy(update={"cards": (CardPlan(card=card(), bridge=bridge),)})
        without = agreed(credentials).model_copy(
            update={
                "network": nowhere,
                "donor_lane": credentials.recipient.keys.endpoint,
                "recipient_lane": credentials.donor.keys.endpoint,
            }
        )
        with pytest.raises(ExtensionFailed, match="no bridge"):
            await mine.open(without, Side.OUTBOUND, activated=False)
        ip("link", "del", bridge)
        with pytest.raises(NetlinkError):
            await mine.open(agreed(credentials), Side.INBOUND, activated=False)
        assert not exists()
