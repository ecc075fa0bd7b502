"""One port between two hosts without virtualisation: both transfers in this process, joined by lanes in memory, and a
broker that a test controls.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4, uuid5

import numpy as np

from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.hypervisor.luks import LuksOptions, create_encrypted
from services.node_agent.hypervisor.secret_values import SecretSpec, SecretValue
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.testing import MemoryLink, MemoryRoute
from services.node_agent.page_codec.hello import Technique
from services.node_agent.settings import NodeSection
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
from shared.domain import HostPlaces, NicPlace, SecretUsage, build_for_host, describe
from shared.messages.base import PortMessage
from shared.messages.lanes import LaneEndpoint
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
from shared.messages.switchover import CopyState
from shared.page_stream.bodies import LaneRole
from shared.testing import make_lane_endpoint
from shared.topology import Lane
from tests.support.lane_credentials import Pair as CredentialsPair

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
MEDIUM = """<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='%s'/>
      <target dev='sda' bus='sata'/><readonly/></disk>"""
LUKS_DISK = "disk vda"
ENCRYPTED_TPM = "<tpm model='tpm-crb'><backend type='emulator'><encryption secret='%s'/></backend></tpm>"
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
    media: Mapping[str, tuple[Path, int]] | None = None,
) -> ServiceChangeAgreement:
    """A fixed port from alpha to beta, whose disk will lie at `image`, and read-only disks at `media`: by target the
    path and size. Without endpoints no lane of it can open.
    """
    now = NOW
    read_only = tuple(
        ReservedDisk(
            target=target, path=str(path), format="raw", virtual_size_bytes=size, read_only=True, file_bytes=size
        )
        for target, (path, size) in (media or {}).items()
    )
    port_id = port_id or uuid4()
    places = HostPlaces(
        secrets={use.device: uuid5(port_id, use.device) for use in describe(domain_xml).secrets},
        disks={"vda": str(image)} | {disk.target: disk.path for disk in read_only},
        disk_formats={"vda": image.suffix.removeprefix(".")} | {disk.target: disk.format for disk in read_only},
        nics=(NicPlace(bridge="vmbr0"),),
    )
    xml = build_for_host(domain_xml, places).to_text()
    return ServiceChangeAgreement(
        port_id=port_id,
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
            *read_only,
        ),
        fixed_at=now,
    )


@dataclass
class FakeBroker:
    """A ledger of one VM. `silent` answers nobody; `denies` is a reason not to grant.

    With `needs_paused` it commits only when the donor has said `GuestPaused`; it pushes the commit to both nodes.
    """

    port_id: UUID
    denies: str | None = None
    silent: bool = False
    committed: bool = False
    arrived: bool = False
    ended: bool = False
    ready: bool = False
    needs_paused: bool = True
    paused: bool = False
    epoch: int = 2
    asked: list[PortMessage] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """The recipient has asked for the VM, or somebody for its owner."""
    clients: list[BrokerClient] = field(default_factory=list)

    def client(self) -> BrokerClient:
        """A node's client of it."""
        client: BrokerClient

        async def say(message: PortMessage) -> None:
            self.hear(message)
            if self.silent:
                return
            committed = self.committed
            if (answer := self.answer(message)) is not None:
                client.deliver(answer)
            if self.committed and not committed:
                for other in self.clients:
                    other.deliver(self.state())

        client = BrokerClient(self.port_id, say, repeat_s=0.05)
        self.clients.append(client)
        return client

    def hear(self, message: PortMessage) -> None:
        """Note what a node says, and whom it wakes."""
        self.asked.append(message)
        if isinstance(message, GuestPaused):
            self.paused = True
        else:
            self.was_asked.set()

    def state(self) -> SwitchoverState:
        """Who owns the VM."""
        return SwitchoverState(
            port_id=self.port_id,
            committed=self.committed,
            owner="beta" if self.committed else "alpha",
            epoch=self.epoch,
            ended=self.ended,
            arrived=self.arrived,
            ready=self.ready,
        )

    def answer(self, message: PortMessage) -> SwitchoverGranted | SwitchoverDenied | SwitchoverState | None:
        """What the saga would say; None: it waits for the other node."""
        match message:
            case RequestSwitchover(epoch=epoch):
                if self.denies is not None:
                    return SwitchoverDenied(port_id=self.port_id, code="cancelled", detail=self.denies)
                if self.needs_paused and not self.paused:
                    return None
                self.committed = True
                return SwitchoverGranted(port_id=self.port_id, epoch=epoch)
            case GuestPaused() | QuerySwitchover():
                return self.state()
            case CopyState():
                return None
            case _:
                raise AssertionError(message)


@dataclass
class Heard:
    """What the outbound transfer reported."""

    starts: int = 0
    percents: list[int] = field(default_factory=list)
    phases: list[TransferPhase] = field(default_factory=list)
    holds: list[bool] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    doubted: asyncio.Event = field(default_factory=asyncio.Event)

    async def started(self) -> None:
        """libvirt migrates."""
        self.starts += 1

    async def progressed(self, progress: Progress, *, wire_bytes: int) -> None:  # noqa: ARG002  # the reporter's shape
        """A percent."""
        self.percents.append(progress.percent)
        self.phases.append(progress.phase)

    def held(self, *, held: bool) -> None:
        """The switchover is held off."""
        self.holds.append(held)

    async def in_doubt(self, reason: str) -> None:
        """The outcome is unknown."""
        self.doubts.append(reason)
        self.doubted.set()


class Pair:
    """A port between two hosts, with both transfers in this process. `now` is the donor's time of day.

    With `base` the disk is an overlay on it. With `medium` it has a drive `sda` with that inserted,
    which is left behind with `eject`. With `keys`, by device, its TPM (``tpm``) and its disk (``disk vda``, an image
    with LUKS inside) are encrypted.
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
        medium: bytes | None = None,
        eject: tuple[str, ...] = (),
        keys: Mapping[str, bytes] | None = None,
    ) -> None:
        self.now = NOW
        self.without = without
        self.tmp = tmp
        self.stack = stack
        self.keys = {Side.OUTBOUND: credentials.donor.keys, Side.INBOUND: credentials.recipient.keys}
        self.donor, self.recipient = FakeHypervisor(), FakeHypervisor()
        luks = LUKS_DISK in (keys or {})
        self.image = tmp / "b" / "images" / ("web-vda.qcow2" if luks or base is not None else "web-vda.raw")
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
        self.medium, self.arrived_medium = tmp / "a" / "tools.iso", self.image.parent / "web-sda.raw"
        if medium is not None:
            self.medium.write_bytes(medium)
            self.domain_xml = self.domain_xml.replace("<interface", MEDIUM % self.medium + "<interface")
        self.secrets: dict[str, UUID] = {}
        self._luks: tuple[Path, SecretValue] | None = None
        for device, key in (keys or {}).items():
            self._encrypt(device, key, source)
        self.memory = b"page" * 100_000
        self.donor.add(self.domain_xml, memory=self.memory, disk=b"block" * 1000)
        self.agreement = make_agreement(
            self.image,
            domain_xml=self.domain_xml,
            limits=PortLimits(eject=eject) if eject else limits,
            window_start=limits.window_start if limits else None,
            donor_lane=self.keys[Side.OUTBOUND].endpoint,
            recipient_lane=self.keys[Side.INBOUND].endpoint,
            media=None if medium is None or eject else {"sda": (self.arrived_medium, len(medium))},
        )
        self.broker = FakeBroker(self.agreement.port_id)
        self.routes = {lane: MemoryRoute() for lane in Lane}
        self.heard = Heard()
        self.running_reported = asyncio.Event()
        stores = {side: Journal(tmp / str(side)).open() for side in Side}
        self.journals = {
            side: TransferJournal(store, PortRecord(side=side, agreement=self.agreement, was_running=False))
            for side, store in stores.items()
        }
        self.contents = {
            side: PortContents(self.settings(side), quarantined=store.quarantined_disks)
            for side, store in stores.items()
        }

    def settings(self, side: Side) -> NodeSection:
        """A node's settings."""
        folder = self.tmp / f"{side}-state"
        return NodeSection(
            state_dir=folder,
            image_dir=self.image.parent,
            base_image_dir=folder / "base-images",
            without=self.without if side is Side.INBOUND else (),
        )

    def cached(self, side: Side) -> set[str]:
        """Names of the folders of contents that a side has of the VM."""
        return {path.name.partition(".")[2] for path in (self.tmp / f"{side}-state" / "contents").glob("*/*")}

    async def open(self) -> None:
        """Make lanes and transfers."""
        if self._luks is not None:
            image, key = self._luks
            image.unlink()
            await create_encrypted(str(image), DISK_BYTES, key, LuksOptions({"cipher-alg": "aes-128"}))
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
            broker=self.broker.client(),
            journal=self.journals[Side.OUTBOUND],
            reporter=self.heard,
            contents=outbound_contents,
            tuning=OutboundTuning(
                ready_within_s=5,
                watch_every_s=0.01,
                progress_every_s=0.01,
                seeding_every_s=0.01,
                abort_within_s=0.5,
                look_again_s=0.01,
            ),
            now=lambda: self.now,
        )
        self.inbound = Inbound(
            self.agreement,
            hypervisor=self.recipient,
            lanes=self.lanes_b,
            sockets=self.sockets_b,
            broker=self.broker.client(),
            journal=self.journals[Side.INBOUND],
            contents=inbound_contents,
            tuning=InboundTuning(
                libvirt_socket=self.tmp / "b" / "libvirt-sock",
                image_dir=self.image.parent,
                socket_within_s=5,
                ask_again_s=0.01,
            ),
        )
        self.donor.moved = (str(self.tmp / "ra"), str(self.tmp / "rb"))

    def _encrypt(self, device: str, key: bytes, image: Path) -> None:
        secret = self.secrets[device] = uuid4()
        usage = SecretUsage.VOLUME if device == LUKS_DISK else SecretUsage.VTPM
        self.donor.secrets.add(SecretSpec(secret, usage, f"donor's {device}"), key)
        xml = self.domain_xml
        if usage is SecretUsage.VTPM:
            self.domain_xml = xml.replace("<interface", ENCRYPTED_TPM % secret + "<interface")
            return
        luks = f"<encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption>"
        luks = f"<encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption>"
        plain = f"<driver name='qemu' type='raw'/><source file='{image}'/>"
        encrypted = f"<driver name='qemu' type='qcow2'/><source file='{image}'>{luks}</source><backingStore/>"
        self.domain_xml = xml.replace(plain, encrypted)
        self._luks = image, SecretValue(key)

    async def _open_lanes(self, side: Side, codecs: PortCodecs) -> PortLanes:
        role = LaneRole.INITIATOR if side is Side.OUTBOUND else LaneRole.ACCEPTOR

        async def link(end: LaneEnd, lane: Lane) -> MemoryLink:
            return self.routes[lane].a if end.role is LaneRole.INITIATOR else self.routes[lane].b

        tls = self.keys[side].tls(self.agreement, role)
        lanes = await PortLanes.open(
            LaneEnd(self.agreement, role), link, tls, LaneTuning(silence_s=60.0), codecs=codecs
        )
        self.stack.push_async_callback(lanes.close, flush_s=0.0)
        return lanes

    async def run_inbound(self) -> TransferError | None:
        """The recipient's transfer, to its end."""

        async def on_running() -> None:
            self.broker.arrived = True
            self.running_reported.set()

        try:
            await self.inbound.run(on_running)
        except TransferError as error:
            return error
        return None

    async def run_outbound(self) -> OutboundResult | TransferError:
        """The donor's transfer, to its end."""
        try:
            return await self.outbound.run()
        except TransferError as error:
            return error

    async def run(self) -> tuple[OutboundResult | TransferError, TransferError | None]:
        """Both transfers, to their ends."""
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
