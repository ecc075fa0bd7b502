"""A donor agent in a world of its own: its broker, two nodes, and what leads a port to each phase."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from prometheus_client import CollectorRegistry

from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.service import DonorService
from services.donor_agent.settings import DonorSection
from services.donor_agent.testing import PORT, VM, make_agreement, make_heartbeat, make_identity
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
from shared.parties import BROKER, donor, node
from shared.store import Store
from tests.support.agent_world import AgentWorld

ALPHA = donor("alpha")
NODE = node("alpha", "alpha-1")
OTHER = node("alpha", "alpha-2")
POLICY = """
max_concurrent_ports = 2
[accounts.acme]
contract_start = 2024-01-01
vms = [{ name = "web-*" }]
"""


class World(AgentWorld[DonorService]):
    """One donor agent, `ALPHA`, with the nodes `NODE` and `OTHER`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ALPHA, NODE, OTHER)
        self.policy_path = folder / "policy.toml"
        self.policy_path.write_text(POLICY)
        self.settings = DonorSection(policy_file=self.policy_path, quarantine_s=100, erase_again_s=50)
        self.metrics = DonorMetrics(CollectorRegistry())

    def make_agent(self, store: Store) -> DonorService:
        """A donor agent; it reads its policy again."""
        policy = PolicyFile.open(self.policy_path)
        return DonorService(store, self.bus.bus(ALPHA), policy, self.settings, self.metrics)

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
