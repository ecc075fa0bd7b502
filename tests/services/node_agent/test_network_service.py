"""The end of an extension and a gateway's commands: done, answered, and not answered where they failed."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.messenger import Messenger
from services.node_agent.network_service import NetworkCommands, NetworkReports
from services.node_agent.state.outbox import Outbox
from shared.messages import AnyEnvelope, Message
from shared.messages.addresses import (
    CloseExtension,
    ExtensionClosed,
    NetworkReported,
    NetworkState,
    ServeAddresses,
)
from shared.messages.network import CareOf
from shared.messages.porting import Side
from shared.parties import BROKER, Party, node
from shared.testing import MemoryBroker
from tests.services.node_agent.network.plans import PORT, agreement, plan
from tests.services.node_agent.network.test_keeper import World

BETA = node("beta", "beta-1")
SERVE = ServeAddresses(
    port_id=PORT,
    vm_uuid=UUID(int=5),
    epoch=2,
    owner="beta",
    care_of=(CareOf(address="198.51.100.10", real="10.0.2.1"),),
)


class Sent(Messenger):
    """What was put into the outbox."""

    def __init__(self, folder: Path) -> None:
        bus = MemoryBroker(BETA, BROKER).bus(BETA)
        super().__init__(bus, Outbox(folder / "outbox", bus))
        self.messages: list[object] = []
        self.full = False

    def enqueue(self, to: Party, message: Message, cause: AnyEnvelope | None = None) -> None:
        assert to == BROKER
        assert cause is None
        if self.full:
            raise OSError("no space left")
        self.messages.append(message)


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    return Sent(tmp_path)


async def test_an_extension_is_closed_and_that_is_said(tmp_path: Path, sent: Sent) -> None:
    world = World(tmp_path / "network")
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    commands = NetworkCommands(world.keeper, sent)
    for _ in range(2):
        await commands.close_extension(CloseExtension(port_id=PORT, epoch=2, reason="its time is up"))
    assert world.wires.open_now == set()
    assert sent.messages == [ExtensionClosed(port_id=PORT, epoch=2)] * 2


def test_a_full_disk_does_not_stop_a_port(sent: Sent) -> None:
    reports = NetworkReports(sent)
    reports(agreement(plan()), NetworkState.CARRYING)
    assert sent.messages == [NetworkReported(port_id=PORT, epoch=2, state=NetworkState.CARRYING)]
    sent.full = True
    reports(agreement(plan()), NetworkState.CARRYING)
