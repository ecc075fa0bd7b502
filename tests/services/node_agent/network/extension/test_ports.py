"""Extensions of a node's ports in a real kernel: made, made again when they are taken away, closed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.link import LaneLink
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.network.extension.ports import ExtensionFailed, PortExtensions
from services.node_agent.network.netlink import Netlink, NetlinkError
from services.node_agent.network.plan import device_name
from shared.messages.network import CardPlan, extension_id
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.topology import Lane
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, plan
from tests.support.extension_pair import eventually
from tests.support.lane_credentials import make_credentials
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root
DEVICE = device_name("vmx", PORT, 0)


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


def command(words: str) -> None:
    subprocess.run(words.split(), check=True, timeout=10)


def output(words: str) -> str:
    return subprocess.run(words.split(), capture_output=True, text=True, check=False, timeout=10).stdout


class Node:
    """A node agent's extensions; the other side never answers."""

    def __init__(self, folder: Path) -> None:
        mine = make_credentials(folder, "beta")
        lanes = {"donor_lane": mine.keys.endpoint, "recipient_lane": mine.keys.endpoint}
        self.agreement = agreement(plan()).model_copy(update=lanes)
        self.ends: list[LaneEnd] = []
        self.ports = PortExtensions(self.make_link, mine.keys, again_s=0.01)

    async def make_link(self, end: LaneEnd, lane: Lane) -> LaneLink:
        assert lane is Lane.EXTENSION
        self.ends.append(end)
        return MemoryRoute().a

    async def open(self, agreed: ServiceChangeAgreement | None = None) -> None:
        await self.ports.open(agreed or self.agreement, Side.INBOUND, activated=False)


async def master(device: str) -> str | None:
    async with Netlink() as kernel:
        link = await kernel.link(device)
        return None if link is None else link.master


async def test_devices_are_in_their_bridge_until_it_is_closed(tmp_path: Path) -> None:
    node = Node(tmp_path)
    with pytest.raises(NetlinkError, match=BRIDGE):
        await node.open()
    assert await master(DEVICE) is None
    command(f"ip link add {BRIDGE} type bridge")

    for _ in range(2):
        await node.open()
    await eventually(lambda: len(node.ends) == 1)

    assert await master(DEVICE) == BRIDGE
    assert node.ends[0].agreement.port_id == extension_id(PORT)
    assert node.ports.stats(PORT) is not None
    for _ in range(2):
        await node.ports.close(PORT)
    assert (await master(DEVICE), node.ports.stats(PORT), node.ports.idle_s(PORT)) == (None, None, None)


async def test_a_device_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    command(f"ip link add {BRIDGE} type bridge")
    await node.open()
    await eventually(lambda: len(node.ends) == 1)
    command(f"ip link del {DEVICE}")
    await eventually(lambda: f"master {BRIDGE}" in output(f"ip -o link show {DEVICE}"))
    await node.ports.close_all()
    assert await master(DEVICE) is None


async def test_what_was_not_agreed_is_not_opened(tmp_path: Path) -> None:
    node = Node(tmp_path)
    with pytest.raises(ExtensionFailed, match="no plan"):
        await node.open(node.agreement.model_copy(update={"network": None}))
    agreed = plan()
    card = CardPlan(card=agreed.cards[0].card, donor_bridge="", bridge=BRIDGE)
    nowhere = node.agreement.model_copy(update={"network": agreed.model_copy(update={"cards": (card,)})})
    with pytest.raises(ExtensionFailed, match="on no bridge"):
        await node.ports.open(nowhere, Side.OUTBOUND, activated=False)
