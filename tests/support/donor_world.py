"""The bus with everybody on it, and one donor agent over a real SQLite file, that can be restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.service import DonorService
from services.donor_agent.settings import DonorSection
from services.donor_agent.testing import PORT, VM, make_agreement, make_heartbeat, make_identity
from shared.messages import Message, seal
from shared.messages.approval import ApprovalRequested
from shared.messages.nodes import (
    VmDescribed,
)
from shared.messages.porting import (
    OutboundFinished,
    OutboundStarted,
    PortingFixed,
    ServiceChangeAgreement,
    StartOutbound,
)
from shared.messages.service_change import PortCompleted, SlaRecord
from shared.parties import BROKER, Party, donor, node
from shared.store import Store
from shared.testing import ManualClock, MemoryBroker

ALPHA = donor("alpha")
NODE = node("alpha", "alpha-1")
OTHER = node("alpha", "alpha-2")
M = TypeVar("M", bound=Message)
POLICY = """
max_concurrent_ports = 2
[accounts.acme]
contract_start = 2024-01-01
vms = [{ name = "web-*" }]
"""


class World:
    """The bus with everybody on it, and one donor agent that can be restarted."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBroker(BROKER, ALPHA, NODE, OTHER)
        self.folder = folder
        self.policy_path = folder / "policy.toml"
        self.policy_path.write_text(POLICY)
        self.settings = DonorSection(policy_file=self.policy_path, quarantine_s=100, erase_again_s=50)
        self.metrics = DonorMetrics(CollectorRegistry())

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[DonorService]:
        """A running agent over the same file each time."""
        store = Store(f"sqlite:///{self.folder}/donor.db", ALPHA, clock=self.clock)
        async with store:
            policy = PolicyFile.open(self.policy_path)
            self.service = DonorService(store, self.bus.bus(ALPHA), policy, self.settings, self.metrics)
            await self.service.start()
            self.store = store
            self.relay, self.timers = self.service.relay, self.service.timers
            inbox = asyncio.get_running_loop().create_task(self.bus.bus(ALPHA).consume(self.service.handle))
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
        await self.bus.bus(sender).publish(ALPHA, envelope)
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
        return [letter.code for letter in self.bus.dead[ALPHA]]

    async def beat(self, **changes: object) -> None:
        """The node says what it runs."""
        await self.say(NODE, make_heartbeat(self.clock(), **changes))

    async def to_approved(self, port: UUID = PORT) -> None:
        """A port that is approved."""
        await self.beat()
        await self.say(BROKER, ApprovalRequested(port_id=port, tenant="acme", vm_uuid=VM))
        await self.say(NODE, VmDescribed(port_id=port, identity=make_identity()))

    def agreement(self, **changes: object) -> ServiceChangeAgreement:
        """The agreement about it."""
        return make_agreement(**changes)

    async def to_moving(self) -> None:
        """A port that moves."""
        await self.to_approved()
        await self.say(BROKER, PortingFixed(port_id=PORT, agreement=self.agreement()))
        await self.say(BROKER, StartOutbound(port_id=PORT, agreement=self.agreement()))
        await self.say(NODE, OutboundStarted(port_id=PORT))

    async def to_left(self) -> None:
        """A port whose VM has left."""
        await self.to_moving()
        await self.say(NODE, FINISHED)


COMPLETED = PortCompleted(
    port_id=PORT,
    recipient="beta",
    epoch=2,
    sla=SlaRecord(
        promised_total_s=60,
        measured_total_s=42,
        promised_downtime_ms=500,
        measured_downtime_ms=120,
        price_per_month="12.50",
        currency="EUR",
        kept=True,
    ),
    memory_bytes=1,
    disk_bytes=1,
    wire_bytes=1,
)
FINISHED = OutboundFinished(port_id=PORT, downtime_ms=100, total_ms=1000, memory_bytes=1, disk_bytes=1, wire_bytes=1)


async def restarted(world: World, *steps: Callable[[], Awaitable[None]]) -> None:
    """Each step in an agent of its own: all that it knows comes from the file."""
    for step in steps:
        async with world.agent():
            await step()
