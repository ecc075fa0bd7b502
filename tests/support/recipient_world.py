"""The bus with everybody on it, and one recipient agent over a real SQLite file, that can be restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from services.recipient_agent.assessment import Terms
from services.recipient_agent.capacity import GIB
from services.recipient_agent.metrics import RecipientMetrics
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
from shared.messages import Message, seal
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
from shared.testing import ManualClock, MemoryBroker

BETA = recipient("beta")
NODE = node("beta", "beta-1")
OTHER = node("beta", "beta-2")
PORT = UUID(int=7)
M = TypeVar("M", bound=Message)


class World:
    """The bus with everybody on it, and one recipient agent that can be restarted."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBroker(BROKER, BETA, NODE, OTHER)
        self.folder = folder
        self.terms: Terms = make_terms()
        self.settings = RecipientSection()
        self.metrics = RecipientMetrics(CollectorRegistry())

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[RecipientService]:
        """A running agent over the same file each time."""
        store = Store(f"sqlite:///{self.folder}/recipient.db", BETA, clock=self.clock)
        async with store:
            self.service = RecipientService(store, self.bus.bus(BETA), self.terms, self.settings, self.metrics)
            await self.service.start()
            self.relay, self.timers = self.service.relay, self.service.timers
            inbox = asyncio.get_running_loop().create_task(self.bus.bus(BETA).consume(self.service.handle))
            try:
                yield self.service
            finally:
                inbox.cancel()
                await asyncio.gather(inbox, return_exceptions=True)

    async def settle(self) -> None:
        """Let everything that is due happen."""
        while True:
            await self.bus.wait_idle()
            before = len(self.bus.published)
            await self.relay.flush()
            if len(self.bus.published) == before:
                return

    async def say(
        self, sender: Party, message: Message, *, message_id: UUID | None = None, deadline: datetime | None = None
    ) -> None:
        """Somebody says something to the agent, and it settles."""
        envelope = seal(message, source=sender, message_id=message_id or uuid4(), now=self.clock(), deadline=deadline)
        await self.bus.bus(sender).publish(BETA, envelope)
        await self.settle()

    async def pass_time(self, seconds: float) -> None:
        """Time passes, due timers fire."""
        await self.clock.advance(seconds)
        await self.timers.run_due()
        await self.settle()

    def heard(self, to: Party, kind: type[M]) -> list[M]:
        """What a party was told, of one type."""
        return [e.data for e in self.bus.received(to) if isinstance(e.data, kind)]

    def dead_codes(self) -> list[str]:
        """Why messages to the agent were given up."""
        return [letter.code for letter in self.bus.dead[BETA]]

    async def beat(self, sender: Party = NODE, **changes: Any) -> None:
        """A node says what it is."""
        await self.say(sender, make_heartbeat(at=self.clock(), **changes))

    async def quote(self, port_id: UUID = PORT, tenant: str = "acme", **vm: Any) -> None:
        """The broker asks for a quote."""
        asked = QuoteRequested(
            port_id=port_id,
            tenant=tenant,
            vm=make_vm(**vm),
            versions=VERSIONS,
            limits=PortLimits(),
            answer_by=self.clock() + timedelta(seconds=30),
        )
        await self.say(BROKER, asked)

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


async def restarted(world: World, *steps: Callable[[], Awaitable[None]]) -> None:
    """Each step in an agent of its own: all that it knows comes from the file."""
    for step in steps:
        async with world.agent():
            await step()
