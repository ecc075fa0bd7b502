"""A tenant's command line and SDK without servers: a broker that answers from a script, and what it is made to say."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from rich.console import Console

from shared.bus import BusDown, DeadLetter, Handler
from shared.client.cli import run
from shared.client.session import Session
from shared.client.settings import ClientSettings
from shared.messages import AnyEnvelope, Message, Refusal, seal
from shared.messages.addresses import LocateVm, VmLocated
from shared.messages.billing import BillShown, ShowBill
from shared.messages.costs import Bill
from shared.messages.lanes import LaneEndpoint
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.queries import (
    ListPorts,
    ListProviders,
    ListVms,
    PortShown,
    PortsListed,
    PortSummary,
    ProvidersListed,
    ProviderStatus,
    QueryFailed,
    RegisteredVm,
    ShowPort,
    ShowVm,
    VmShown,
    VmsListed,
)
from shared.messages.service_change import (
    PortAccepted,
    PortCompleted,
    PortLimits,
    PortPhase,
    PortProgressed,
    PortRequested,
    Quote,
    SlaRecord,
    StreamProgress,
    TransferPhase,
)
from shared.messages.vm import CpuFeature, CpuMode, Firmware, Vlan, VmState
from shared.messages.vm_details import CpuDetails, DiskDetails, NicDetails, VmDetails
from shared.parties import BROKER, Party, tenant

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACME = tenant("acme")
WEB = RegisteredVm(
    uuid=UUID("aaaa1111-0000-4000-8000-000000000001"),
    name="web",
    state=VmState.RUNNING,
    memory_bytes=512 * 2**20,
    vcpus=1,
    disk_bytes=2 * 2**30,
    provider="alpha",
    node="alpha-1",
    epoch=1,
)
SHOP = WEB.model_copy(update={"uuid": UUID("aaaa2222-0000-4000-8000-000000000002"), "name": "shop"})
DETAILS = VmDetails(
    uuid=WEB.uuid,
    name="web",
    state=VmState.RUNNING,
    architecture="x86_64",
    machine="pc-q35-10.0",
    domain_type="kvm",
    vcpus=1,
    vcpus_max=8,
    memory_bytes=512 * 2**20,
    memory_current_bytes=256 * 2**20,
    cpu=CpuDetails(mode=CpuMode.CUSTOM, model="Skylake-Server", features=(CpuFeature(name="vmx", policy="disable"),)),
    firmware=Firmware.UEFI,
    secure_boot=True,
    nvram=True,
    disks=(
        DiskDetails(
            target="vda", device="disk", bus="virtio", format="qcow2", kind="file", size_bytes=2 * 2**30, snapshots=2
        ),
        DiskDetails(
            target="sda",
            device="cdrom",
            bus="sata",
            format="raw",
            kind="file",
            size_bytes=0,
            read_only=True,
            empty=True,
        ),
    ),
    nics=(
        NicDetails(
            mac="52:54:00:00:00:01", model="virtio", kind="bridge", network="ovs0", vlan=Vlan(tags=(7, 8), trunk=True)
        ),
    ),
    autostart=True,
    persistent=True,
    made_anew=("graphics@listen: the recipient's own",),
    not_kept=("cputune/vcpupin: not kept",),
)
"""WEB, as its node reads it."""

PORT = UUID("12345678-0000-4000-8000-000000000001")
SLA = SlaRecord(
    promised_total_s=60,
    measured_total_s=42,
    promised_downtime_ms=500,
    measured_downtime_ms=120,
    measured_outage_ms=140,
    price_per_month="12.50",
    currency="EUR",
    kept=True,
)
QUOTE = Quote(
    provider="beta",
    price_per_month="12.50",
    currency="EUR",
    instance_type="small",
    promised_total_s=60,
    promised_downtime_ms=500,
    valid_until="2026-01-02T04:00:00Z",
)
REFUSAL = Refusal(code="memory_short", rule="the VM's memory fits on a node", evidence="512 MiB asked, 100 MiB free")

LOCATED = VmLocated(vm_uuid=WEB.uuid, vm_name="web", provider="alpha", node="alpha-1", epoch=1, since=NOW)

Script = Callable[["ScriptedBroker", AnyEnvelope], None]


@dataclass
class ScriptedBroker:
    """One tenant's bus, at whose other end a broker follows a script: it may answer at once, later, or not at all."""

    vms: tuple[RegisteredVm, ...] = (WEB, SHOP)
    ports: dict[UUID, PortShown] = field(default_factory=dict)
    on_command: Script | None = None
    now: Callable[[], datetime] = lambda: NOW
    show_vm: Callable[[UUID], Message] = lambda _: VmShown(vm=WEB, details=DETAILS)
    located: Message = LOCATED
    bill: Bill | None = None
    record: Callable[[UUID], PortShown] | None = None
    after_record: tuple[Callable[[UUID], Message], ...] = ()
    silent: bool = False
    down: bool = False
    heard: list[AnyEnvelope] = field(default_factory=list)
    closed: bool = False
    _listening: bool = False
    _inbox: asyncio.Queue[AnyEnvelope] = field(default_factory=asyncio.Queue)

    @property
    def party(self) -> Party:
        return ACME

    @property
    def requested(self) -> PortRequested:
        """The last request for a port."""
        return next(sent.data for sent in reversed(self.heard) if isinstance(sent.data, PortRequested))

    async def publish(self, to: Party, envelope: AnyEnvelope) -> None:
        assert to == BROKER
        if self.down:
            raise BusDown("RabbitMQ at nowhere cannot be used")
        self.heard.append(envelope)
        if self.silent:
            return
        answer = self._answer(envelope.data)
        if answer is not None:
            self.say(answer, cause=envelope)
            if isinstance(answer, PortShown):
                for make in self.after_record:
                    self.say(make(answer.summary.port_id))
        elif self.on_command:
            self.on_command(self, envelope)

    def _answer(self, question: Message) -> Message | None:
        match question:
            case ListVms():
                return VmsListed(vms=self.vms)
            case ShowVm(vm_uuid=vm_uuid):
                return self.show_vm(vm_uuid)
            case LocateVm():
                return self.located
            case ShowBill():
                return BillShown(bill=self.bill) if self.bill else QueryFailed(code="no_bill", detail="not completed")
            case ListProviders():
                beta = ProviderStatus(
                    name="beta", last_seen=NOW, nodes=2, nodes_healthy=1, memory_free_bytes=2**33, disk_free_bytes=2**40
                )
                return ProvidersListed(providers=(beta,))
            case ListPorts(limit=limit):
                return PortsListed(ports=tuple(shown.summary for shown in self.ports.values())[:limit])
            case ShowPort(port_id=port_id):
                shown = self.record(port_id) if self.record else self.ports.get(port_id)
                return shown or QueryFailed(code="not_found", detail=f"there is no port {port_id}")
            case _:
                return None

    def say(self, message: Message, *, cause: AnyEnvelope | None = None) -> None:
        self._inbox.put_nowait(seal(message, source=BROKER, message_id=uuid4(), now=self.now(), cause=cause))

    async def consume(
        self, handler: Handler, *, on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None
    ) -> None:
        assert on_dead is None, "a tenant's client has nobody to tell of dead letters"
        self._inbox = asyncio.Queue()
        self._listening = not self.down
        while True:
            await handler(await self._inbox.get())

    async def ready(self) -> bool:
        return not self.down

    async def wait_listening(self) -> int:
        while not self._listening:  # noqa: ASYNC110  # an Event would belong to one loop; each command line has its own
            await asyncio.sleep(0)
        return 1

    async def close(self) -> None:
        self.closed = True
        self._listening = False


def shown_port(port_id: UUID, phase: PortPhase = PortPhase.APPROVAL, **changes: Any) -> PortShown:
    """The broker's record of a port of WEB."""
    summary = PortSummary(
        port_id=port_id,
        vm_uuid=WEB.uuid,
        vm_name=WEB.name,
        donor="alpha",
        recipient="beta",
        phase=phase,
        requested_at=NOW,
        updated_at=NOW,
    )
    request = PortRequested(port_id=port_id, vm_uuid=WEB.uuid, donor="alpha", recipient="beta")
    return PortShown.model_validate({"summary": summary, "request": request, "events": ()} | changes)


def agreement_of(port_id: UUID) -> ServiceChangeAgreement:
    """What a port of WEB to beta was fixed as."""
    certificate = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
    lane = LaneEndpoint(certificate=certificate, authority=certificate)
    return ServiceChangeAgreement(
        port_id=port_id,
        tenant="acme",
        vm_uuid=WEB.uuid,
        vm_name=WEB.name,
        donor="alpha",
        donor_node="alpha-1",
        recipient="beta",
        recipient_node="beta-1",
        epoch=2,
        window_start=NOW,
        deadline=NOW + timedelta(hours=4),
        promised_total_s=60,
        promised_downtime_ms=500,
        price_per_month="12.50",
        currency="EUR",
        limits=PortLimits(),
        donor_lane=lane,
        recipient_lane=lane,
        domain_xml="<domain/>",
        domain_xml_sha256="0" * 64,
        disks=(),
        fixed_at=NOW,
    )


@dataclass
class Cli:
    """The command line against a scripted broker."""

    broker: ScriptedBroker
    home: Path
    url: str | None = "amqp://tenant.acme:secret@localhost/vmport"
    now: Callable[[], datetime] | None = None
    out: str = ""
    err: str = ""

    def __call__(self, *arguments: str) -> int:
        """Run one command line; returns its exit code and keeps what it wrote."""
        out, err = io.StringIO(), io.StringIO()

        async def connect(_: ClientSettings) -> ScriptedBroker:
            return self.broker

        session = Session(
            connect=connect,
            out=Console(file=out, width=200),
            err=Console(file=err, width=200),
            home=self.home,
            now=self.now or self.broker.now,
        )
        code = run([*(["--url", self.url] if self.url else []), *arguments], session)
        self.out, self.err = out.getvalue(), err.getvalue()
        return code


def port_of(command: AnyEnvelope) -> UUID:
    """The id of the port that a request is for."""
    assert isinstance(command.data, PortRequested)
    return command.data.port_id


def answering(make: Callable[[UUID], tuple[Message, ...]]) -> Callable[[ScriptedBroker, AnyEnvelope], None]:
    """A broker that says these about the port that it is asked for."""

    def script(broker: ScriptedBroker, command: AnyEnvelope) -> None:
        for message in make(getattr(command.data, "port_id", PORT)):
            broker.say(message, cause=command)

    return script


def completed(port_id: UUID) -> PortCompleted:
    """The end of a successful port, with a warning."""
    return PortCompleted(
        port_id=port_id,
        recipient="beta",
        epoch=2,
        sla=SLA,
        memory_bytes=512 * 2**20,
        disk_bytes=2**31,
        wire_bytes=300 * 2**20,
        warnings=("the guest was slow",),
    )


def transferred(port_id: UUID, percent: int) -> PortProgressed:
    """A report from the middle of a transfer."""
    return PortProgressed(
        port_id=port_id,
        phase=TransferPhase.MEMORY,
        percent=percent,
        memory=StreamProgress(total_bytes=2**29, processed_bytes=2**28, remaining_bytes=2**28),
        disk=StreamProgress(total_bytes=2**31, processed_bytes=2**31, remaining_bytes=0),
        rate_bytes_per_s=2**20,
        eta_s=256,
    )


def under_way(broker: ScriptedBroker, *events: Callable[[UUID], Message]) -> None:
    """A broker that accepts a port and tells these events once it is asked for the record."""

    def script(to: ScriptedBroker, command: AnyEnvelope) -> None:
        port_id = port_of(command)
        broker.ports[port_id] = shown_port(port_id, PortPhase.TRANSFERRING)
        to.say(PortAccepted(port_id=port_id), cause=command)

    broker.on_command = script
    broker.after_record = events
