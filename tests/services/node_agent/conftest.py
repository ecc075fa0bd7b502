"""Two hosts without virtualisation, joined by lanes in memory, and a broker that a test can bend."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID, uuid4

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.testing import MemoryLink, MemoryRoute
from services.node_agent.messenger import Reports
from services.node_agent.metrics import NodeMetrics
from services.node_agent.page_codec.hello import Technique
from services.node_agent.service import NodeService
from services.node_agent.settings import NodeSection
from services.node_agent.state.journal import HalfJournal, Journal, PortRecord
from services.node_agent.state.outbox import Outbox
from services.node_agent.switchover.broker_client import BrokerTalk
from services.node_agent.transfers.inbound import Inbound, InboundFailed, InboundTuning
from services.node_agent.transfers.manager import Halves
from services.node_agent.transfers.outbound import Outbound, OutboundFailed, OutboundResult, OutboundTuning
from services.node_agent.transfers.port_codecs import StreamCodecs
from services.node_agent.transfers.port_contents import PortContents
from services.node_agent.transfers.port_lanes import LaneTuning, PortLanes
from services.node_agent.transfers.port_sockets import PortSockets
from services.node_agent.transfers.progress import Progress
from services.node_agent.vm_commands import VmAffairs
from shared.backoff import Backoff
from shared.domain import HostPlaces, rewrite_for_host
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.base import PortMessage
from shared.messages.lanes import LaneEndpoint
from shared.messages.porting import (
    InboundOpened,
    OpenInbound,
    QuerySwitchover,
    RequestSwitchover,
    ReservedDisk,
    ServiceChangeAgreement,
    Side,
    StartOutbound,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
)
from shared.messages.service_change import PortLimits, TransferPhase
from shared.page_stream.bodies import LaneRole
from shared.parties import BROKER, Party, donor, node, recipient
from shared.testing import MemoryBroker, make_lane_endpoint
from shared.topology import Lane
from tests.support.lane_credentials import Credentials
from tests.support.lane_credentials import Pair as CredentialsPair

M = TypeVar("M", bound=Message)
VM = UUID("11111111-2222-3333-4444-555555555501")
MAC = "52:54:00:00:00:01"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOMAIN = f"""<domain type='qemu'>
  <name>web</name><uuid>{VM}</uuid><memory unit='KiB'>262144</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><mac address='{MAC}'/><source bridge='vmbr0'/><model type='virtio'/></interface>
  </devices>
</domain>"""
OVERLAID_BASE = np.random.default_rng(7).bytes(DISK_BYTES)
BENEATH = "<backingStore type='file'><format type='raw'/><source file='%s'/><backingStore/></backingStore>"


def make_agreement(
    image: Path,
    *,
    domain_xml: str,
    port_id: UUID | None = None,
    limits: PortLimits | None = None,
    window_start: datetime | None = None,
    donor_lane: LaneEndpoint | None = None,
    recipient_lane: LaneEndpoint | None = None,
) -> ServiceChangeAgreement:
    """A fixed port from alpha to beta, whose disk will lie at `image`. Without endpoints no lane of it can open."""
    now = NOW
    xml = rewrite_for_host(domain_xml, HostPlaces(disks={"vda": str(image)}, bridges={MAC: "vmbr0"})).to_text()
    return ServiceChangeAgreement(
        port_id=port_id or uuid4(),
        tenant="acme",
        vm_uuid=VM,
        vm_name="web",
        donor="alpha",
        donor_node="alpha-1",
        recipient="beta",
        recipient_node="beta-1",
        epoch=2,
        window_start=window_start or now,
        deadline=(window_start or now) + timedelta(hours=1),
        promised_total_s=60,
        promised_downtime_ms=1000,
        price_per_month=Decimal(1),
        currency="EUR",
        limits=limits or PortLimits(),
        donor_lane=donor_lane or make_lane_endpoint(),
        recipient_lane=recipient_lane or make_lane_endpoint(),
        domain_xml=xml,
        domain_xml_sha256=hashlib.sha256(xml.encode()).hexdigest(),
        disks=(
            ReservedDisk(
                target="vda",
                path=str(image),
                format=image.suffix.removeprefix("."),
                virtual_size_bytes=DISK_BYTES,
            ),
        ),
        fixed_at=now,
    )


@dataclass
class FakeBroker:
    """A ledger of one VM. `silent` answers nobody; `denies` is a reason not to grant."""

    port_id: UUID
    denies: str | None = None
    silent: bool = False
    committed: bool = False
    arrived: bool = False
    ended: bool = False
    asked: list[PortMessage] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)

    def talk(self) -> BrokerTalk:
        """A node's conversation with it."""
        talk: BrokerTalk

        async def say(message: PortMessage) -> None:
            self.asked.append(message)
            self.was_asked.set()
            if not self.silent:
                talk.deliver(self.answer(message))

        talk = BrokerTalk(self.port_id, say, repeat_s=0.05)
        return talk

    def answer(self, message: PortMessage) -> SwitchoverGranted | SwitchoverDenied | SwitchoverState:
        """What the saga would say."""
        match message:
            case RequestSwitchover(epoch=epoch):
                if self.denies is not None:
                    return SwitchoverDenied(port_id=self.port_id, code="cancelled", detail=self.denies)
                self.committed = True
                return SwitchoverGranted(port_id=self.port_id, epoch=epoch)
            case QuerySwitchover():
                owner = "beta" if self.committed else "alpha"
                return SwitchoverState(
                    port_id=self.port_id,
                    committed=self.committed,
                    owner=owner,
                    epoch=2,
                    ended=self.ended,
                    arrived=self.arrived,
                )
            case _:
                raise AssertionError(message)


@dataclass
class Heard:
    """What the outbound half reported."""

    starts: int = 0
    percents: list[int] = field(default_factory=list)
    phases: list[TransferPhase] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    doubted: asyncio.Event = field(default_factory=asyncio.Event)

    async def started(self) -> None:
        """libvirt migrates."""
        self.starts += 1

    async def progressed(self, progress: Progress, *, wire_bytes: int) -> None:  # noqa: ARG002  # the reporter's shape
        """A percent."""
        self.percents.append(progress.percent)
        self.phases.append(progress.phase)

    async def in_doubt(self, reason: str) -> None:
        """The outcome is unknown."""
        self.doubts.append(reason)
        self.doubted.set()


class Pair:
    """A port between two hosts, with both halves in this process. `now` is the donor's time of day.

    With `base` the disk is an overlay on it.
    """

    def __init__(
        self,
        tmp: Path,
        stack: AsyncExitStack,
        credentials: CredentialsPair,
        *,
        limits: PortLimits | None = None,
        without: tuple[Technique, ...] = (),
        base: bytes | None = None,
    ) -> None:
        self.now = NOW
        self.without = without
        self.tmp = tmp
        self.stack = stack
        self.keys = {Side.OUTBOUND: credentials.donor.keys, Side.INBOUND: credentials.recipient.keys}
        self.donor, self.recipient = FakeHypervisor(), FakeHypervisor()
        self.image = tmp / "b" / "images" / ("web-vda.raw" if base is None else "web-vda.qcow2")
        for folder in (tmp / "a", self.image.parent):
            folder.mkdir(parents=True)
        source = tmp / "a" / "web.raw"
        source.write_bytes(bytes(DISK_BYTES))
        self.domain_xml = DOMAIN % source
        self.base = tmp / "a" / "base.img"
        if base is not None:
            self.base.write_bytes(base)
            self.domain_xml = self.domain_xml.replace("type='raw'", "type='qcow2'").replace(
                "<target dev='vda'", BENEATH % self.base + "<target dev='vda'"
            )
        self.memory = b"page" * 100_000
        self.donor.add(self.domain_xml, memory=self.memory, disk=b"block" * 1000)
        self.agreement = make_agreement(
            self.image,
            domain_xml=self.domain_xml,
            limits=limits,
            window_start=limits.window_start if limits else None,
            donor_lane=self.keys[Side.OUTBOUND].endpoint,
            recipient_lane=self.keys[Side.INBOUND].endpoint,
        )
        self.broker = FakeBroker(self.agreement.port_id)
        self.routes = {lane: MemoryRoute() for lane in Lane}
        self.heard = Heard()
        self.running_reported = asyncio.Event()
        stores = {side: Journal(tmp / str(side)).open() for side in Side}
        self.journals = {
            side: HalfJournal(store, PortRecord(side=side, agreement=self.agreement)) for side, store in stores.items()
        }
        self.contents = {side: PortContents(self.settings(side), store) for side, store in stores.items()}

    def settings(self, side: Side) -> NodeSection:
        """A node's settings."""
        folder = self.tmp / f"{side}-state"
        return NodeSection(
            state_dir=folder,
            image_dir=self.image.parent,
            base_image_dir=folder / "base-images",
            without=self.without if side is Side.INBOUND else (),
        )

    def kept(self, side: Side) -> set[str]:
        """Names of the folders of contents that a side has of the VM."""
        return {path.name.partition(".")[2] for path in (self.tmp / f"{side}-state" / "contents").glob("*/*")}

    async def open(self) -> None:
        """Make lanes and halves."""
        await self.stack.enter_async_context(self.recipient.serve(self.tmp / "b" / "libvirt-sock"))
        port_id = self.agreement.port_id
        outbound_contents = self.contents[Side.OUTBOUND].outbound(self.agreement)
        inbound_contents = self.contents[Side.INBOUND].inbound(self.agreement)
        self.lanes_a = await self._open_lanes(Side.OUTBOUND, outbound_contents.codecs)
        self.lanes_b = await self._open_lanes(Side.INBOUND, inbound_contents.codecs)
        # One run directory per host, as each host has its own /run.
        self.sockets_a = PortSockets(self.tmp / "ra", port_id)
        self.sockets_b = PortSockets(self.tmp / "rb", port_id)
        self.outbound = Outbound(
            self.agreement,
            hypervisor=self.donor,
            lanes=self.lanes_a,
            sockets=self.sockets_a,
            talk=self.broker.talk(),
            journal=self.journals[Side.OUTBOUND],
            reporter=self.heard,
            contents=outbound_contents,
            tuning=OutboundTuning(
                ready_within_s=5, watch_every_s=0.01, progress_every_s=0.01, seeding_every_s=0.01, abort_within_s=0.5
            ),
            now=lambda: self.now,
        )
        self.inbound = Inbound(
            self.agreement,
            hypervisor=self.recipient,
            lanes=self.lanes_b,
            sockets=self.sockets_b,
            talk=self.broker.talk(),
            journal=self.journals[Side.INBOUND],
            contents=inbound_contents,
            tuning=InboundTuning(
                libvirt_socket=self.tmp / "b" / "libvirt-sock", image_dir=self.image.parent, socket_within_s=5
            ),
        )
        self.donor.moved = (str(self.tmp / "ra"), str(self.tmp / "rb"))

    async def _open_lanes(self, side: Side, codecs: StreamCodecs) -> PortLanes:
        role = LaneRole.INITIATOR if side is Side.OUTBOUND else LaneRole.ACCEPTOR

        async def link(end: LaneEnd, lane: Lane) -> MemoryLink:
            return self.routes[lane].a if end.role is LaneRole.INITIATOR else self.routes[lane].b

        tls = self.keys[side].tls(self.agreement, role)
        lanes = await PortLanes.open(
            LaneEnd(self.agreement, role), link, tls, LaneTuning(silence_s=60.0), codecs=codecs
        )
        self.stack.push_async_callback(lanes.close, flush_s=0.0)
        return lanes

    async def run_inbound(self) -> InboundFailed | None:
        """The recipient's half, to its end."""

        async def on_running() -> None:
            self.broker.arrived = True
            self.running_reported.set()

        try:
            await self.inbound.run(on_running)
        except InboundFailed as error:
            return error
        return None

    async def run_outbound(self) -> OutboundResult | OutboundFailed:
        """The donor's half, to its end."""
        try:
            return await self.outbound.run()
        except OutboundFailed as error:
            return error

    async def run(self) -> tuple[OutboundResult | OutboundFailed, InboundFailed | None]:
        """Both halves, to their ends."""
        await self.inbound.open()
        return await asyncio.gather(self.run_outbound(), self.run_inbound())


@asynccontextmanager
async def made_pair(credentials: CredentialsPair, **facts: Any) -> AsyncIterator[Pair]:
    """Two hosts with a VM on the first, ready to port."""
    async with AsyncExitStack() as stack:
        # pytest's own folders are too long for a socket's path.
        folder = stack.enter_context(TemporaryDirectory(prefix="vmport-"))
        made = Pair(Path(folder), stack, credentials, **facts)
        await made.open()
        yield made


@pytest.fixture
async def pair(credentials: CredentialsPair) -> AsyncIterator[Pair]:
    """A port at once."""
    async with made_pair(credentials) as made:
        yield made


@pytest.fixture
async def seeded_pair(credentials: CredentialsPair, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """A port whose window opens in an hour, with contents sent ahead; techniques that beta lacks by parameter."""
    limits = PortLimits(window_start=NOW + timedelta(hours=1), seed=True)
    async with made_pair(credentials, limits=limits, without=getattr(request, "param", ())) as made:
        yield made


@pytest.fixture
async def overlaid(credentials: CredentialsPair) -> AsyncIterator[Pair]:
    """Two hosts with a VM on the first whose disk is an overlay on `OVERLAID_BASE`; its halves are not open yet."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="vmport-"))
        yield Pair(Path(folder), stack, credentials, base=OVERLAID_BASE)


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
        self.reports = Reports(self.bus, self.outbox)
        self.halves = Halves(
            self.settings,
            hypervisor=self.hypervisor,
            journal=self.journal,
            reports=self.reports,
            routes=self.world.routes,
            keys=self.keys,
            metrics=self.metrics,
        )
        affairs = VmAffairs(
            self.hypervisor,
            self.journal,
            node=self.party.node,
            lane=self.keys.endpoint,
            described=self.halves.described,
        )
        self.service = NodeService(self.party, self.halves, affairs, self.reports)
        self.halves.recover()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.outbox.run()), loop.create_task(self.bus.consume(self.service.handle))]
        await self.bus.consuming.wait()

    async def kill(self) -> None:
        """End everything at once, as SIGKILL would: nothing is said, nothing is cleaned up but by the kernel."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.service.close()
        await self.halves.stop(0.0)
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
            if isinstance(message, RequestSwitchover | QuerySwitchover):
                self.ledger.asked.append(message)
                self.ledger.was_asked.set()
                if not self.ledger.silent:
                    await self.say(BROKER, envelope.sender, self.ledger.answer(message))

        await bus.consume(handle)

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
        """Wait until a node has no half of a port any more."""
        half = each.halves.half(self.agreement.port_id)
        if half is not None:
            await asyncio.wait_for(half.over.wait(), 10)

    async def start_port(self) -> None:
        """Up to libvirt's migration."""
        await self.say(recipient("beta"), BETA, OpenInbound(port_id=self.agreement.port_id, agreement=self.agreement))
        await self.hear(recipient("beta"), InboundOpened)
        await self.say(donor("alpha"), ALPHA, StartOutbound(port_id=self.agreement.port_id, agreement=self.agreement))


@pytest.fixture
async def world(credentials: CredentialsPair) -> AsyncIterator[World]:
    """Two running nodes."""
    with TemporaryDirectory(prefix="vmport-") as folder:
        made = World(Path(folder), credentials)
        async with AsyncExitStack() as stack:
            for each in (made.alpha, made.beta):
                await stack.enter_async_context(each.hypervisor.serve(each.settings.libvirt_socket))
                await each.start()
                stack.push_async_callback(each.kill)
            broker = asyncio.get_running_loop().create_task(made.play_broker())
            yield made
            broker.cancel()
            await asyncio.gather(broker, return_exceptions=True)
