"""A recipient agent in a world of its own: its broker, two nodes, and what leads a port to each phase."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prometheus_client import CollectorRegistry

from services.recipient_agent.assessment import Terms
from services.recipient_agent.capacity import GIB
from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.prefix_files import PrefixFiles
from services.recipient_agent.service import RecipientService
from services.recipient_agent.settings import RecipientSection
from services.recipient_agent.testing import (
    MAC,
    VERSIONS,
    VM_UUID,
    XML,
    make_agreement,
    make_heartbeat,
    make_identity,
    make_summary,
    make_terms,
    make_vm,
)
from shared.messages.network import WantedMode
from shared.messages.nodes import CheckVm, VmChecked
from shared.messages.porting import (
    AbortTransfer,
    InboundOpened,
    OpenInbound,
    PortingFixed,
    ProvisionVm,
    QuoteOffered,
    QuoteRequested,
    ReservationRequested,
    Reserved,
    ServiceChangeAgreement,
    Side,
)
from shared.messages.service_change import PortLimits
from shared.messages.vm import VmSummary
from shared.parties import BROKER, Party, node, recipient
from shared.store import Store
from tests.support.agent_world import AgentWorld

BETA = recipient("beta")
NODE = node("beta", "beta-1")
OTHER = node("beta", "beta-2")
PORT = UUID(int=7)


class World(AgentWorld[RecipientService]):
    """One recipient agent, `BETA`, with the nodes `NODE` and `OTHER`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, BETA, NODE, OTHER)
        self.terms: Terms = make_terms()
        self.settings = RecipientSection()
        self.metrics = RecipientMetrics(CollectorRegistry())
        self.prefixes: PrefixFiles | None = None

    def make_agent(self, store: Store) -> RecipientService:
        """A recipient agent."""
        bus = self.bus.bus(BETA)
        return RecipientService(store, bus, self.terms, self.settings, self.metrics, prefixes=self.prefixes)

    async def beat(self, sender: Party = NODE, **changes: Any) -> None:
        """A node says what it is."""
        await self.say(sender, make_heartbeat(at=self.clock(), **changes))

    async def quote(
        self,
        port_id: UUID = PORT,
        tenant: str = "acme",
        *,
        nodes_answer: bool = True,
        eject: tuple[str, ...] = (),
        network_mode: WantedMode = "auto",
        **vm: Any,
    ) -> None:
        """The broker asks for a quote, and the nodes, if they are asked, have nothing against the VM's CPU."""
        asked = QuoteRequested(
            port_id=port_id,
            tenant=tenant,
            vm=make_vm(**vm),
            versions=VERSIONS,
            limits=PortLimits(eject=eject, network_mode=network_mode),
            answer_by=self.clock() + timedelta(seconds=30),
        )
        await self.say(BROKER, asked)
        if nodes_answer:
            await self.answer_checks(port_id)

    async def answer_checks(self, port_id: UUID = PORT) -> None:
        """Each node that was asked about the port's VM has nothing against its CPU."""
        for each in (NODE, OTHER):
            if any(question.port_id == port_id for question in self.heard(each, CheckVm)):
                await self.say(each, VmChecked(port_id=port_id))

    async def reserve(self, port_id: UUID = PORT, **changes: Any) -> None:
        """The broker takes up the last quote."""
        facts = {
            "port_id": port_id,
            "tenant": "acme",
            "identity": make_identity(),
            "limits": PortLimits(),
            "quote": self.heard(BROKER, QuoteOffered)[-1].quote,
        }
        await self.say(BROKER, ReservationRequested(**{**facts, **changes}))

    def agreement(self, **changes: Any) -> ServiceChangeAgreement:
        """The agreement about the last reservation."""
        reserved = self.heard(BROKER, Reserved)[-1]
        return make_agreement(reserved, self.heard(BROKER, QuoteOffered)[-1].quote, self.clock(), **changes)

    async def to_reserved(self) -> None:
        """A port that is reserved."""
        await self.beat()
        await self.quote()
        await self.reserve()

    async def to_fixed(self) -> None:
        """A port that is fixed."""
        await self.to_reserved()
        await self.say(BROKER, PortingFixed(port_id=PORT, agreement=self.agreement()))

    async def to_open(self) -> None:
        """A port whose node waits for the VM."""
        await self.to_fixed()
        await self.say(BROKER, OpenInbound(port_id=PORT, agreement=self.agreement()))
        await self.say(NODE, InboundOpened(port_id=PORT))

    def reservations(self) -> float:
        """How many reservations hold capacity, by the metric."""
        return float(self.metrics.reservations_active._value.get())


PROVISION = ProvisionVm(port_id=PORT, vm_uuid=VM_UUID, autostart=True, donor_xml=XML)
ABORT = AbortTransfer(port_id=PORT, side=Side.INBOUND, reason="x")


def arrived(**changes: Any) -> VmSummary:
    """The VM, as it is listed once it is here."""
    facts = {"uuid": VM_UUID, "name": "web-1", "memory_bytes": 512 << 20, "vcpus": 1, "disk_bytes": GIB, "macs": (MAC,)}
    return make_summary(**{**facts, **changes})
