"""Two whole node agents on a bus in memory, over hosts without virtualisation; the test plays agents and broker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.testing import MemoryLink, MemoryRoute
from services.node_agent.messenger import Messenger
from services.node_agent.metrics import NodeMetrics
from services.node_agent.service import NodeService
from services.node_agent.settings import NodeSection
from services.node_agent.state.journal import Journal
from services.node_agent.state.outbox import Outbox
from services.node_agent.transfers.manager import Transfers
from services.node_agent.vm_commands import VmCommands
from shared.backoff import Backoff
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.porting import (
    GuestPaused,
    InboundOpened,
    OpenInbound,
    QuerySwitchover,
    RequestSwitchover,
    StartOutbound,
)
from shared.page_stream.bodies import LaneRole
from shared.parties import BROKER, Party, donor, node, recipient
from shared.testing import MemoryBroker
from shared.topology import Lane
from tests.support.lane_credentials import Credentials
from tests.support.lane_credentials import Pair as CredentialsPair
from tests.support.transfer_pair import DOMAIN, FakeBroker, make_agreement

M = TypeVar("M", bound=Message)

ALPHA, BETA = node("alpha", "alpha-1"), node("beta", "beta-1")


class NodeUnderTest:
    """One node agent on a bus in memory, over a host without virtualisation. `start` and `kill` as often as a test
    likes."""

    def __init__(self, party: Party, world: World, credentials: Credentials) -> None:
        self.party = party
        self.world = world
        self.keys = credentials.keys
        self.hypervisor = FakeHypervisor()
        folder = world.tmp / party.owner
        self.settings = NodeSection(
            libvirt_socket=folder / "libvirt-sock",
            run_dir=folder / "run",
            state_dir=folder / "state",
            image_dir=folder / "images",
            base_image_dir=folder / "base-images",
            heartbeat_s=60.0,
            progress_s=0.1,
            abort_within_s=0.5,
        )
        self.settings.image_dir.mkdir(parents=True)
        self.metrics = NodeMetrics(CollectorRegistry())
        self.journal = Journal(self.settings.state_dir / "ports")
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """A fresh process over the same state directory."""
        self.bus = self.world.broker.bus(self.party)
        self.outbox = Outbox(self.settings.state_dir / "outbox", self.bus, backoff=Backoff(0.01, 0.05))
        self.journal.open()
        self.outbox.open()
        self.messenger = Messenger(self.bus, self.outbox)
        self.transfers = Transfers(
            self.settings,
            hypervisor=self.hypervisor,
            journal=self.journal,
            messenger=self.messenger,
            routes=self.world.routes,
            keys=self.keys,
            metrics=self.metrics,
        )
        commands = VmCommands(
            self.hypervisor,
            self.journal,
            node=self.party.node,
            lane=self.keys.endpoint,
            described=self.transfers.described,
            metrics=self.metrics,
        )
        self.service = NodeService(self.party, self.transfers, commands, self.messenger)
        self.transfers.recover()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.outbox.run()), loop.create_task(self.bus.consume(self.service.handle))]
        await self.bus.consuming.wait()

    async def kill(self) -> None:
        """End everything at once, as SIGKILL would: nothing is said, nothing is cleaned up but by the kernel."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.service.close()
        await self.transfers.stop(0.0)
        await self.bus.close()


class MemoryRoutes:
    """The ways between all nodes of a world: its PortRoutes."""

    def __init__(self) -> None:
        self._routes: dict[tuple[UUID, Lane], MemoryRoute] = {}

    async def link(self, end: LaneEnd, lane: Lane) -> MemoryLink:
        """One end's link."""
        route = self._routes.setdefault((end.port_id, lane), MemoryRoute())
        return route.a if end.role is LaneRole.INITIATOR else route.b

    def forget(self, port_id: UUID) -> None:
        """One end is over; the other one may still have something to read."""


class World:
    """Two nodes, and a test in the place of the agents and the broker."""

    def __init__(self, tmp: Path, credentials: CredentialsPair) -> None:
        self.tmp = tmp
        agents = [agent(provider) for agent in (donor, recipient) for provider in ("alpha", "beta")]
        self.broker = MemoryBroker(BROKER, ALPHA, BETA, *agents)
        self.routes = MemoryRoutes()
        self.alpha = NodeUnderTest(ALPHA, self, credentials.donor)
        self.beta = NodeUnderTest(BETA, self, credentials.recipient)
        self.alpha.hypervisor.moved = (str(tmp / "alpha" / "run"), str(tmp / "beta" / "run"))
        source = tmp / "alpha" / "images" / "web.raw"
        source.write_bytes(bytes(DISK_BYTES))
        self.source = source
        self.domain_xml = DOMAIN % source
        self.memory = b"page" * 100_000
        self.alpha.hypervisor.add(self.domain_xml, memory=self.memory, disk=b"block")
        self.agreement = make_agreement(
            self.beta.settings.image_dir / "web.raw",
            domain_xml=self.domain_xml,
            donor_lane=self.alpha.keys.endpoint,
            recipient_lane=self.beta.keys.endpoint,
        )
        self.ledger = FakeBroker(self.agreement.port_id)

    async def play_broker(self) -> None:
        """Answer nodes as the ledger says, until cancelled."""
        bus = self.broker.bus(BROKER)

        async def handle(envelope: AnyEnvelope) -> None:
            message = envelope.data
            if isinstance(message, RequestSwitchover | QuerySwitchover | GuestPaused):
                if not self._is_about_readiness(envelope):
                    self.ledger.hear(message)
                if self.ledger.silent:
                    return
                committed = self.ledger.committed
                if (answer := self.ledger.answer(message)) is not None:
                    await self.say(BROKER, envelope.sender, answer)
                if self.ledger.committed and not committed:
                    await self.say(BROKER, ALPHA, self.ledger.state())

        async with asyncio.TaskGroup() as inboxes:
            inboxes.create_task(bus.consume(handle))
            inboxes.create_task(bus.consume_urgent(handle))

    def _is_about_readiness(self, envelope: AnyEnvelope) -> bool:
        """Whether a node asks only whether the switchover could be committed, as it does all the time."""
        clients = [active.broker for each in (self.alpha, self.beta) for active in each.transfers._active.values()]
        return any(client.readiness is not None and client.readiness.asked(envelope.id) for client in clients)

    async def say(self, source: Party, to: Party, message: Message) -> None:
        """Send a message as somebody."""
        envelope = seal(message, source=source, message_id=uuid4(), now=datetime.now(UTC))
        await self.broker.bus(source).publish(to, envelope)

    async def hear(self, to: Party, kind: type[M], *, count: int = 1) -> M:
        """Wait for the count-th message of a kind to a party."""
        async with asyncio.timeout(10):
            while True:
                found = [envelope.data for envelope in self.broker.received(to) if isinstance(envelope.data, kind)]
                if len(found) >= count:
                    return found[count - 1]
                await asyncio.sleep(0.01)

    async def over(self, each: NodeUnderTest) -> None:
        """Wait until a node has no active transfer of the port."""
        active = each.transfers.active(self.agreement.port_id)
        if active is not None:
            await asyncio.wait_for(active.over.wait(), 10)

    async def start_port(self) -> None:
        """Up to libvirt's migration."""
        await self.say(recipient("beta"), BETA, OpenInbound(port_id=self.agreement.port_id, agreement=self.agreement))
        await self.hear(recipient("beta"), InboundOpened)
        await self.say(donor("alpha"), ALPHA, StartOutbound(port_id=self.agreement.port_id, agreement=self.agreement))
