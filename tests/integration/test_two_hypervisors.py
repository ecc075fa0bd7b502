"""Both transfers of a port in one process, over two real libvirts and a guest that checks its own memory and disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from deploy.labkit.errors import CommandFailed
from deploy.labkit.processes import run
from services.node_agent.hypervisor.disk_images import allocated_bytes
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.caps import Caps
from services.node_agent.lanes.routes.factory import URGENT_LANES
from services.node_agent.lanes.routes.routed_link import RoutedLink
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.settings import NodeSection
from services.node_agent.state.given_away import GivenAway, GivenAwayVm
from services.node_agent.state.guest_ends import ENDED, GuestEnds
from services.node_agent.state.journal import Journal, PortRecord, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.inbound import Inbound, InboundTuning
from services.node_agent.transfers.outbound import Outbound, OutboundTuning
from services.node_agent.transfers.outbound_result import OutboundResult
from services.node_agent.transfers.port_codecs import PortCodecs
from services.node_agent.transfers.port_contents import PortContents
from services.node_agent.transfers.port_lanes import LaneTuning, PortLanes
from services.node_agent.transfers.port_sockets import PortSockets
from services.node_agent.transfers.progress import Progress
from shared.domain import HostPlaces, NicPlace, build_for_host, guest_abi_differences
from shared.ejecting import without_media
from shared.messages.base import PortMessage
from shared.messages.porting import (
    GuestPaused,
    QuerySwitchover,
    RequestSwitchover,
    ReservedDisk,
    ServiceChangeAgreement,
    Side,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
)
from shared.messages.service_change import PortLimits, TransferPhase
from shared.messages.vm import VmState
from shared.page_stream.bodies import LaneRole
from shared.topology import Lane
from tests.support.lane_credentials import Pair
from tests.support.two_hosts import GUEST_BRIDGE, TwoHosts, two_hosts

pytestmark = pytest.mark.lab

RUN_DIR = Path("/run/vmport")
WHOLE_BYTES = 4 << 20


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    """Two hosts, for this module."""
    with two_hosts("pair") as made:
        yield made


@dataclass
class Ledger:
    """The ledger of one VM, at the broker. `at_switchover` is called while the guest is paused at both ends."""

    port_id: UUID
    grants: bool = True
    at_switchover: Callable[[], Awaitable[None]] | None = None
    committed: bool = False
    arrived: bool = False
    clients: list[BrokerClient] = field(default_factory=list)

    def client(self) -> BrokerClient:
        """A node's conversation with it."""
        client: BrokerClient

        async def say(message: PortMessage) -> None:
            if isinstance(message, RequestSwitchover) and self.at_switchover is not None:
                await self.at_switchover()
            match message:
                case RequestSwitchover(epoch=epoch) if self.grants:
                    self.committed = True
                    for each in self.clients:
                        each.deliver(self.state())
                    client.deliver(SwitchoverGranted(port_id=self.port_id, epoch=epoch))
                case RequestSwitchover():
                    client.deliver(SwitchoverDenied(port_id=self.port_id, code="cancelled", detail="not now"))
                case QuerySwitchover() | GuestPaused():
                    client.deliver(self.state())

        client = BrokerClient(self.port_id, say)
        self.clients.append(client)
        return client

    def state(self) -> SwitchoverState:
        """Who owns the VM."""
        owner = "beta" if self.committed else "alpha"
        return SwitchoverState(
            port_id=self.port_id,
            committed=self.committed,
            owner=owner,
            epoch=2,
            ended=False,
            arrived=self.arrived,
        )


class Reporter:
    """What the donor's transfer reports; `flowing` is set when memory moves, `ahead` are percents before the window."""

    def __init__(self) -> None:
        self.may_doubt = False
        self.percents: list[int] = []
        self.flowing = asyncio.Event()
        self.ahead: asyncio.Queue[int] = asyncio.Queue()

    async def started(self) -> None:
        """libvirt migrates."""

    async def progressed(self, progress: Progress, *, wire_bytes: int) -> None:
        """A report."""
        assert wire_bytes >= 0
        if progress.phase is TransferPhase.SEEDING:
            self.ahead.put_nowait(progress.percent)
            return
        self.percents.append(progress.percent)
        if progress.phase is TransferPhase.MEMORY and progress.memory.processed_bytes:
            self.flowing.set()

    def held(self, *, held: bool) -> None:
        """Nothing is held off here."""

    async def in_doubt(self, reason: str) -> None:
        """Only where a test expects it."""
        assert self.may_doubt, reason


class Port:
    """One port of a running guest from alpha to beta. `later` is how far the donor's time of day is moved forward."""

    def __init__(
        self,
        hosts: TwoHosts,
        stack: AsyncExitStack,
        credentials: Pair,
        *,
        limits: PortLimits | None = None,
        overlaid: bool = False,
        twin: bool = False,
        with_media: bool = False,
    ) -> None:
        self.hosts = hosts
        self.stack = stack
        self.keys = {Side.OUTBOUND: credentials.donor.keys, Side.INBOUND: credentials.recipient.keys}
        self.limits = limits or PortLimits()
        self.later = timedelta()
        self.overlaid = overlaid
        self.twin = twin
        self.with_media = with_media
        self.port_id = uuid4()
        self.ledger = Ledger(self.port_id)
        self.reporter = Reporter()
        self.routes = {lane: MemoryRoute() for lane in Lane}
        self.donor, self.recipient = hosts.hypervisor("alpha"), hosts.hypervisor("beta")

    async def open(self) -> None:
        """A guest at alpha, and both transfers."""
        self.record, xml = await asyncio.to_thread(self.hosts.guest, overlaid=self.overlaid)
        noise = np.random.default_rng(7).bytes(WHOLE_BYTES)
        if self.overlaid:
            xml = await asyncio.to_thread(self._with_a_whole_disk, xml, noise)
        elif self.twin:
            first = self.hosts.folder / f"{self.record.uuid}.raw"
            xml = await asyncio.to_thread(self._with_a_whole_disk, xml, noise + first.read_bytes() + noise)
        elif self.with_media:
            xml = await asyncio.to_thread(self._with_media, xml, noise)
        self.uuid = UUID(self.record.uuid)
        self.before = await asyncio.to_thread(self.hosts.start, "alpha", self.record, xml)
        self.stack.push_async_callback(asyncio.to_thread, self.hosts.remove, self.uuid)
        for each in (self.donor, self.recipient):
            await each.connect()
            self.stack.push_async_callback(each.close)
        self.live = await self.donor.describe(self.uuid)
        self.images = {
            disk.target: self.hosts.folder / f"{self.port_id}-{disk.target}.{disk.format}"
            for disk in without_media(self.live.description, self.limits.eject).disks
            if not disk.empty
        }
        self.image = self.images["vda"]
        agreement = self._agreement()
        # Beside its journal a node has the files that libvirt's hook at its host reads.
        state_dir = self.hosts.lab.plan.node_state_dir
        stores = {
            side: Journal(state_dir(provider) / f"ports-{self.port_id}").open()
            for side, provider in ((Side.OUTBOUND, "alpha"), (Side.INBOUND, "beta"))
        }
        journals = {
            side: TransferJournal(store, PortRecord(side=side, agreement=agreement)) for side, store in stores.items()
        }
        contents = {
            side: PortContents(self._settings(side), quarantined=store.quarantined_disks)
            for side, store in stores.items()
        }
        if self.overlaid:
            await asyncio.to_thread(self._publish)
            await contents[Side.INBOUND].sweep(())
        leaving, arriving = contents[Side.OUTBOUND].outbound(agreement), contents[Side.INBOUND].inbound(agreement)
        codecs: dict[Side, PortCodecs] = {Side.OUTBOUND: leaving.codecs, Side.INBOUND: arriving.codecs}
        lanes = self.lanes = {side: await self._lanes(side, agreement, codecs[side]) for side in Side}
        plan = self.hosts.lab.plan
        self.outbound = Outbound(
            agreement,
            hypervisor=self.donor,
            lanes=lanes[Side.OUTBOUND],
            sockets=PortSockets(plan.host_run_dir("alpha") / "vmport", self.port_id, seen_as=RUN_DIR),
            broker=self.ledger.client(),
            journal=journals[Side.OUTBOUND],
            reporter=self.reporter,
            contents=leaving,
            tuning=OutboundTuning(watch_every_s=0.2, progress_every_s=0.2, seeding_every_s=0.2),
            now=lambda: datetime.now(UTC) + self.later,
        )
        recipient = _WithBridge(self.recipient)
        self.inbound = Inbound(
            agreement,
            hypervisor=recipient,
            lanes=lanes[Side.INBOUND],
            sockets=PortSockets(plan.host_run_dir("beta") / "vmport", self.port_id, seen_as=RUN_DIR),
            broker=self.ledger.client(),
            journal=journals[Side.INBOUND],
            contents=arriving,
            tuning=InboundTuning(libvirt_socket=plan.libvirt_socket("beta"), image_dir=self.hosts.folder),
        )

    def _agreement(self) -> ServiceChangeAgreement:
        vm, now = self.live.description, datetime.now(UTC)
        xml = build_for_host(
            self.live.domain_xml,
            HostPlaces(
                disks={target: str(image) for target, image in self.images.items()},
                disk_formats={disk.target: disk.format for disk in vm.disks},
                nics=tuple(NicPlace(bridge=GUEST_BRIDGE) for _ in vm.nics),
                kernel=vm.kernel or None,
                initrd=vm.initrd or None,
            ),
        ).to_text()
        return ServiceChangeAgreement(
            port_id=self.port_id,
            tenant="acme",
            vm_uuid=vm.uuid,
            vm_name=vm.name,
            donor="alpha",
            donor_node="alpha-1",
            recipient="beta",
            recipient_node="beta-1",
            epoch=2,
            window_start=self.limits.window_start or now,
            deadline=(self.limits.window_start or now) + timedelta(hours=1),
            promised_total_s=60,
            promised_downtime_ms=1000,
            price_per_month=Decimal(1),
            currency="EUR",
            limits=self.limits,
            donor_lane=self.keys[Side.OUTBOUND].endpoint,
            recipient_lane=self.keys[Side.INBOUND].endpoint,
            domain_xml=xml,
            domain_xml_sha256=hashlib.sha256(xml.encode()).hexdigest(),
            disks=tuple(
                ReservedDisk(
                    target=disk.target,
                    path=str(self.images[disk.target]),
                    format=disk.format,
                    virtual_size_bytes=disk.virtual_size_bytes,
                    read_only=disk.read_only,
                    file_bytes=disk.file_bytes,
                )
                for disk in vm.disks
                if disk.target in self.images
            ),
            fixed_at=now,
        )

    def _with_a_whole_disk(self, xml: str, data: bytes) -> str:
        """Beside the first one, a disk with nothing beneath it."""
        path = self.hosts.folder / f"{self.port_id}-whole.raw"
        path.write_bytes(data)
        disk = f"""<disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="{path}"/>
<target dev="vdb" bus="virtio"/></disk>"""
        return xml.replace("</disk>", f"</disk>{disk}", 1)

    def _with_media(self, xml: str, data: bytes) -> str:
        """A CD in one drive and none in the other, and a read-only disk in QCOW2."""
        self.cd = self.hosts.folder / f"{self.port_id}-cd.iso"
        self.library = self.hosts.folder / f"{self.port_id}-library.qcow2"
        self.cd.write_bytes(data[:-2048])
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(self.library), "64M"])
        run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 2M", str(self.library)])
        devices = f"""<controller type="scsi" model="virtio-scsi"/>
<disk type="file" device="cdrom"><driver name="qemu" type="raw"/><source file="{self.cd}" startupPolicy="optional"/>
<target dev="sda" bus="scsi"/><readonly/></disk>
<disk type="file" device="cdrom"><target dev="sdb" bus="scsi"/><readonly/></disk>
<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{self.library}"/>
<target dev="vdb" bus="virtio"/><readonly/></disk>"""
        return xml.replace("</disk>", f"</disk>{devices}", 1)

    @property
    def published(self) -> Path:
        """The recipient's own copy of what the guest's disk lies on, under a name of its own."""
        return self._settings(Side.INBOUND).base_image_dir / "debian-12.img"

    def _publish(self) -> None:
        self.published.parent.mkdir(parents=True)
        run(["cp", "--sparse=always", str(self.hosts.base(self.uuid)), str(self.published)])

    def _settings(self, side: Side) -> NodeSection:
        folder = self.hosts.folder / f"{self.port_id}-{side}-state"
        return NodeSection(state_dir=folder, image_dir=self.hosts.folder, base_image_dir=folder / "base-images")

    async def _lanes(self, side: Side, agreement: ServiceChangeAgreement, codecs: PortCodecs) -> PortLanes:
        role = LaneRole.INITIATOR if side is Side.OUTBOUND else LaneRole.ACCEPTOR

        caps = Caps()

        async def link(end: LaneEnd, lane: Lane) -> RoutedLink:
            sends = end.role is LaneRole.INITIATOR
            relay = self.routes[lane].a if sends else self.routes[lane].b
            agreed, bulk = self.limits.bandwidth_bytes_per_s, sends and lane not in URGENT_LANES
            cap = caps.lane(end.port_id, end.peer.owner, agreed, bulk=bulk)
            return RoutedLink(relay, None, cap=cap, count=lambda *_: None)

        tls = self.keys[side].tls(agreement, role)
        lanes = await PortLanes.open(LaneEnd(agreement, role), link, tls, LaneTuning(), codecs=codecs)
        self.stack.push_async_callback(lanes.close, flush_s=0.0)
        return lanes

    async def run(self) -> tuple[OutboundResult | TransferError, TransferError | None]:
        """Run both transfers to their ends."""
        await self.inbound.open()
        return await asyncio.gather(self._run_outbound(), self._run_inbound())

    async def _run_outbound(self) -> OutboundResult | TransferError:
        try:
            return await self.outbound.run()
        except TransferError as error:
            return error

    async def _run_inbound(self) -> TransferError | None:
        async def on_running() -> None:
            self.ledger.arrived = True

        try:
            await self.inbound.run(on_running)
        except TransferError as error:
            return error
        return None

    async def report(self) -> dict[str, Any]:
        """What the guest says now."""
        return await asyncio.to_thread(self.hosts.report, self.record)

    async def states(self) -> tuple[VmState | None, VmState | None]:
        """At alpha, at beta."""
        return await self.donor.state(self.uuid), await self.recipient.state(self.uuid)


def _WithBridge(hypervisor: Any) -> Any:  # noqa: N802  # reads as what it stands for
    """The test process is in neither host's network, so it cannot see that the bridge is there."""
    original = hypervisor.platform

    async def platform() -> Any:
        return (await original()).model_copy(update={"bridges": (GUEST_BRIDGE,)})

    hypervisor.platform = platform
    return hypervisor


@pytest.fixture
async def port(hosts: TwoHosts, credentials: Pair, request: pytest.FixtureRequest) -> AsyncIterator[Port]:
    """A guest that is about to leave; `limits` by indirect parameter."""
    async with AsyncExitStack() as stack:
        made = Port(hosts, stack, credentials, limits=getattr(request, "param", None))
        await made.open()
        yield made


@pytest.fixture
async def overlaid_port(hosts: TwoHosts, credentials: Pair) -> AsyncIterator[Port]:
    """A guest that is about to leave, one disk an overlay on an image that the recipient publishes, too, one whole."""
    async with AsyncExitStack() as stack:
        made = Port(hosts, stack, credentials, overlaid=True)
        await made.open()
        yield made


@pytest.fixture
async def twin_port(hosts: TwoHosts, credentials: Pair) -> AsyncIterator[Port]:
    """A guest that is about to leave with two raw disks; the second has all of the first, and more, twice."""
    async with AsyncExitStack() as stack:
        made = Port(hosts, stack, credentials, twin=True)
        await made.open()
        yield made


@pytest.fixture
async def media_port(hosts: TwoHosts, credentials: Pair, request: pytest.FixtureRequest) -> AsyncIterator[Port]:
    """A guest that is about to leave, with media and a read-only disk; `limits` by indirect parameter."""
    async with AsyncExitStack() as stack:
        made = Port(hosts, stack, credentials, limits=getattr(request, "param", None), with_media=True)
        await made.open()
        yield made


async def same_guest(port: Port) -> None:
    """It never rebooted, and found no wrong byte in memory or on disk."""
    report = await port.report()
    assert report["boot_id"] == port.before["boot_id"]
    assert report["uptime_s"] >= port.before["uptime_s"]
    assert report["mismatches"] == 0


async def test_a_guest_moves_and_notices_nothing(port: Port) -> None:
    """Same boot, no mismatch, same guest ABI; gone at alpha; downtime under a second."""
    result, failure = await port.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    await same_guest(port)
    assert await port.states() == (VmState.SHUT_OFF, VmState.RUNNING)
    arrived = await port.recipient.describe(port.uuid)
    assert guest_abi_differences(port.live.domain_xml, arrived.domain_xml) == []
    assert result.downtime_ms < 1000
    assert result.memory_bytes > 10 << 20
    assert result.wire_bytes < result.memory_bytes + result.disk_bytes
    assert port.reporter.percents[-1] == 100


def comparing(port: Port) -> list[str]:
    """What `qemu-img compare` will have said of each disk when the switchover is asked for."""
    compared: list[str] = []

    async def compare() -> None:
        for source, image, disk in zip(port.live.files, port.images.values(), port.live.description.disks, strict=True):
            command = ["qemu-img", "compare", "-U", "-f", disk.format, "-F", disk.format, source, str(image)]
            compared.append(await asyncio.to_thread(run, command))

    port.ledger.at_switchover = compare
    return compared


async def test_a_guest_that_left_is_not_started_at_the_donor(port: Port) -> None:
    """Its autostart is off, and virsh is refused; at the recipient, which gave it away once, it arrives."""
    virsh, plan = port.hosts.lab.virsh, port.hosts.lab.plan
    await asyncio.to_thread(virsh, "alpha", "autostart", str(port.uuid))
    before = port.inbound._agreement.model_copy(update={"port_id": uuid4(), "epoch": 1})
    returned = GivenAway(plan.node_state_dir("beta") / "given-away")
    returned.store(GivenAwayVm.by(before, since="2026-01-01T00:00:00+00:00", reason="x"))
    result, failure = await port.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert await port.states() == (VmState.SHUT_OFF, VmState.RUNNING)
    assert not (await port.donor.describe(port.uuid)).description.autostart
    with pytest.raises(CommandFailed, match="gave it away"):
        await asyncio.to_thread(virsh, "alpha", "start", str(port.uuid))
    await asyncio.to_thread(port.hosts.restart_libvirtd, "beta")
    await same_guest(port)
    assert await port.states() == (VmState.SHUT_OFF, VmState.RUNNING)


async def test_an_overlay_arrives_as_an_overlay(overlaid_port: Port) -> None:
    """On the recipient's own base image, identical through the chain; only the top layer went through the lanes.

    A disk with nothing beneath it is whole at the other side, too.
    """
    port = overlaid_port
    compared = comparing(port)
    base = port.hosts.base(port.uuid)
    before = await asyncio.to_thread(base.read_bytes)
    result, failure = await port.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert [said.strip() for said in compared] == ["Images are identical."] * 2
    info = json.loads(await asyncio.to_thread(run, ["qemu-img", "info", "-U", "--output=json", str(port.image)]))
    assert (info["backing-filename"], info["backing-filename-format"]) == (str(port.published), "raw")
    assert port.live.description.disks[0].allocated_bytes < allocated_bytes(str(base)) // 2
    assert WHOLE_BYTES < result.disk_bytes < allocated_bytes(str(base)) // 2
    await same_guest(port)
    arrived = await port.recipient.describe(port.uuid)
    assert [layer.path for layer in arrived.layers["vda"]] == [str(port.published)]
    assert guest_abi_differences(port.live.domain_xml, arrived.domain_xml) == []
    assert await asyncio.to_thread(port.published.read_bytes) == before
    assert await asyncio.to_thread(base.read_bytes) == before


async def test_two_disks_that_share_their_contents(twin_port: Port) -> None:
    """Copied side by side, by connections of their own, each is whole; what both have crossed once."""
    port = twin_port
    compared = comparing(port)
    result, failure = await port.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert [said.strip() for said in compared] == ["Images are identical."] * 2
    went = port.lanes[Side.OUTBOUND].contents(Lane.DISK)
    first_bytes = port.live.description.disks[0].allocated_bytes
    assert went["disk"] + went["memory"] >= WHOLE_BYTES + first_bytes // 2
    assert went["full"] < WHOLE_BYTES + 1.5 * first_bytes
    await same_guest(port)


def block_devices(port: Port, provider: str) -> dict[str, str]:
    """By device of QEMU, the file that is inserted; empty for none."""
    asked = '{"execute": "query-block"}'
    answer = json.loads(port.hosts.lab.virsh(provider, "qemu-monitor-command", str(port.uuid), asked))
    return {each["qdev"]: each.get("inserted", {}).get("file", "") for each in answer["return"]}


async def test_media_and_read_only_disks_come_along(media_port: Port) -> None:
    """Byte for byte, read-only, and sent before libvirt began; an empty drive stays empty."""
    port = media_port
    library = await asyncio.to_thread(port.library.read_bytes)
    cd = await asyncio.to_thread(port.cd.read_bytes)
    assert port.live.description.blockers == ()
    result, failure = await port.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    await same_guest(port)
    assert await asyncio.to_thread(port.images["sda"].read_bytes) == cd
    assert await asyncio.to_thread(port.images["vdb"].read_bytes) == library
    arrived = await port.recipient.describe(port.uuid)
    assert {disk.target: (disk.read_only, disk.empty) for disk in arrived.description.disks} == {
        "vda": (False, False),
        "vdb": (True, False),
        "sda": (True, False),
        "sdb": (True, True),
    }
    assert guest_abi_differences(port.live.domain_xml, arrived.domain_xml) == []
    assert set((await asyncio.to_thread(block_devices, port, "beta")).values()) == {
        *(str(image) for image in port.images.values()),
        "",
    }


@pytest.mark.parametrize("media_port", [PortLimits(eject=("all",))], indirect=True)
async def test_an_ejected_medium_stays_behind(media_port: Port) -> None:
    """libvirt and QEMU take an empty drive for one with a medium; the guest goes on and its drive is empty."""
    port = media_port
    result, failure = await port.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    await same_guest(port)
    assert sorted(port.images) == ["vda", "vdb"]
    arrived = await port.recipient.describe(port.uuid)
    assert {disk.target: disk.empty for disk in arrived.description.disks} == {
        "vda": False,
        "vdb": False,
        "sda": True,
        "sdb": True,
    }
    assert guest_abi_differences(port.live.domain_xml, arrived.domain_xml) == []
    assert sorted((await asyncio.to_thread(block_devices, port, "beta")).values()) == sorted(
        ["", "", str(port.images["vda"]), str(port.images["vdb"])]
    )


async def test_a_denied_switchover_is_as_if_nothing_had_happened(port: Port) -> None:
    """The guest runs on at alpha, nothing is left at beta."""
    port.ledger.grants = False
    result, failure = await port.run()
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert result.guest_running
    assert await port.states() == (VmState.RUNNING, None)
    assert not await asyncio.to_thread(port.image.exists)
    await same_guest(port)


async def test_the_donors_libvirtd_is_restarted_in_the_switchover(port: Port) -> None:
    """It cannot talk to the frozen QEMU, which is killed all the same when the guest runs at beta; nothing hangs."""

    async def restart() -> None:
        port.ledger.at_switchover = None
        await asyncio.to_thread(port.hosts.restart_libvirtd, "alpha")

    port.reporter.may_doubt = True
    port.ledger.at_switchover = restart
    async with asyncio.timeout(240):
        result, failure = await port.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    await same_guest(port)
    assert await port.states() == (VmState.SHUT_OFF, VmState.RUNNING)


async def test_a_copy_that_a_restarted_libvirtd_ends_has_not_ended_by_itself(port: Port) -> None:
    """The recipient's libvirtd ends what only received, and tells its hook that this was its own doing."""
    where = port.hosts.lab.plan.node_state_dir("beta") / "given-away"
    ends, file = GuestEnds(where), where / f"{port.uuid}{ENDED}"

    async def restart() -> None:
        port.ledger.at_switchover = None
        ends.watch(port.uuid)
        # Not asked to end: then it would end its clients' guests before.
        os.kill(port.hosts.lab.process("libvirtd-beta").pid, signal.SIGKILL)
        await asyncio.to_thread(port.hosts.restart_libvirtd, "beta")

    port.reporter.may_doubt = True
    port.ledger.grants = False
    port.ledger.at_switchover = restart
    await port.inbound.open()
    leaving = asyncio.ensure_future(port._run_outbound())
    async with asyncio.timeout(100):
        assert isinstance(await port._run_inbound(), TransferError)
        port.outbound.cancel()
        assert isinstance(await leaving, TransferError)
    assert await port.states() == (VmState.RUNNING, None)
    said = await asyncio.to_thread(file.read_text)
    assert said
    assert not ends.ended_by_itself(port.uuid), said
    ends.forget(port.uuid)
    await same_guest(port)


async def test_a_cancel_in_the_memory_phase(port: Port) -> None:
    """Both transfers stop; the guest runs on at alpha, nothing is left at beta."""
    await port.inbound.open()
    transfers = asyncio.gather(port._run_outbound(), port._run_inbound())
    async with asyncio.timeout(60):
        await port.reporter.flowing.wait()
    port.outbound.cancel()
    port.inbound.cancel()
    result, failure = await transfers
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert await port.states() == (VmState.RUNNING, None)
    assert not await asyncio.to_thread(port.image.exists)
    await same_guest(port)


@pytest.mark.parametrize(
    "port", [PortLimits(post_copy="always", bandwidth_bytes_per_s=16 << 20)], indirect=True, ids=["always"]
)
async def test_post_copy(port: Port) -> None:
    """The broker commits first, then the guest runs at beta while its memory follows."""
    result, failure = await port.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert result.post_copy
    assert port.ledger.committed
    assert await port.states() == (VmState.SHUT_OFF, VmState.RUNNING)
    await same_guest(port)


async def test_a_route_that_is_away_for_ten_seconds(port: Port) -> None:
    """Longer than libvirt's own keepalive interval: the port goes on where it was."""
    await port.inbound.open()
    transfers = asyncio.gather(port._run_outbound(), port._run_inbound())
    async with asyncio.timeout(60):
        await port.reporter.flowing.wait()
    for route in port.routes.values():
        route.cut(lose_queued=True)
    await asyncio.sleep(10)
    for route in port.routes.values():
        route.mend()
    result, failure = await transfers
    assert failure is None
    assert isinstance(result, OutboundResult)
    await same_guest(port)


SEEDED = PortLimits(window_start=datetime.now(UTC) + timedelta(days=1), seed=True, seed_bandwidth_bytes_per_s=64 << 20)


async def ahead(port: Port, percent: int) -> None:
    """Wait until seeding has read this share of the VM."""
    async with asyncio.timeout(90):
        while await port.reporter.ahead.get() < percent:
            pass


@pytest.mark.parametrize("port", [SEEDED], indirect=True, ids=["seeded"])
async def test_what_went_ahead_does_not_go_again(port: Port) -> None:
    """When the window opens, the guest moves with a fraction of the bytes that its disk and memory took before."""
    await port.inbound.open()
    transfers = asyncio.gather(port._run_outbound(), port._run_inbound())
    await ahead(port, 100)
    assert await port.states() == (VmState.RUNNING, None)
    assert await port.donor.job(port.uuid) is None
    port.later = timedelta(days=1)
    result, failure = await transfers
    assert failure is None
    assert isinstance(result, OutboundResult)
    await same_guest(port)
    assert await port.states() == (VmState.SHUT_OFF, VmState.RUNNING)
    in_window_bytes = result.wire_bytes - result.seeded_bytes
    assert result.seeded_bytes > 5 << 20
    assert in_window_bytes < 0.3 * result.seeded_bytes


@pytest.mark.parametrize("port", [SEEDED], indirect=True, ids=["seeded"])
async def test_a_cancel_before_the_window(port: Port) -> None:
    """A cancelled port leaves nothing in the guest, in libvirt, or at beta."""
    await port.inbound.open()
    transfers = asyncio.gather(port._run_outbound(), port._run_inbound())
    await ahead(port, 20)
    port.outbound.cancel()
    port.inbound.cancel()
    async with asyncio.timeout(20):
        result, failure = await transfers
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert (result.code, result.guest_running) == ("cancelled", True)
    assert await port.states() == (VmState.RUNNING, None)
    assert await port.donor.job(port.uuid) is None
    assert not await asyncio.to_thread(port.image.exists)
    await same_guest(port)
