"""What both agents have in common: whom they believe, what they remember of nodes, when they report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.donor_agent.testing import make_heartbeat
from shared.bus import Reject
from shared.messages import Envelope, Message, Refusal, seal
from shared.messages.nodes import NodeHeartbeat
from shared.messages.porting import OutboundFinished, OutboundStarted, Side, TransferAborted, TransferFailed
from shared.messages.queries import ListVms
from shared.metrics import AgentMetrics
from shared.parties import BROKER, Party, donor, node
from shared.provider_agent import ProviderAgent, codes_of, count_refusals, send_to_node, timer_key
from shared.store import Store, StoreDown, Timer, Transaction
from shared.testing import ManualClock, MemoryBroker, breathe

ALPHA = donor("alpha")
NODE = node("alpha", "alpha-1")
OTHER = node("alpha", "alpha-2")
PORT = UUID(int=7)
STARTED = OutboundStarted(port_id=PORT)
FINISHED = OutboundFinished(port_id=PORT, downtime_ms=1, total_ms=2, memory_bytes=3, disk_bytes=4, wire_bytes=5)


@dataclass(frozen=True)
class Port:
    """What the agent keeps."""

    node: str = "alpha-1"


@dataclass(frozen=True)
class Settings:
    """Of both agents."""

    node_silent_after_s: float = 30.0
    report_every_s: float = 0.01
    keep_records_days: float = 90.0


class Agent(ProviderAgent[Port]):
    """Knows one port, and notes what it is asked for."""

    def __init__(self, store: Store, broker: MemoryBroker, metrics: AgentMetrics) -> None:
        super().__init__(store, broker.bus(ALPHA), Settings(), metrics, relay_policy=None)
        self.ports = {PORT: Port()}
        self.finished: list[Port] = []
        self.overdue: list[UUID] = []
        self.saved: list[str] = []
        self.reports: list[bool] = []
        self.forgotten: list[datetime] = []
        self.heard_at: dict[str, datetime] = {}
        self.pass_on(OutboundStarted, TransferFailed)
        self.on_node(OutboundFinished, self.outbound_finished)
        self.on_port_timer("overdue", self.is_overdue)

    async def outbound_finished(self, tx: Transaction, envelope: Envelope[OutboundFinished], port: Port) -> None:
        """Given the port that the node holds."""
        assert envelope.data == FINISHED
        assert tx.party == ALPHA
        self.finished.append(port)

    async def is_overdue(self, tx: Transaction, timer: Timer, port_id: UUID) -> None:
        """Given the port that the timer is about."""
        assert timer.due_at <= tx.now
        self.overdue.append(port_id)

    async def load_port(self, tx: Transaction, port_id: UUID) -> Port | None:
        """Out of memory."""
        assert tx.party == ALPHA
        return self.ports.get(port_id)

    async def load_nodes(self) -> Mapping[str, object]:
        """One node is known already."""
        await self.store.create_schema()
        return {"alpha-2": make_heartbeat().vms}

    def take_heartbeat(self, name: str, heartbeat: NodeHeartbeat) -> object:
        """Its VMs are what lasts."""
        self.heard_at[name] = self.store.clock()
        return heartbeat.vms

    async def save_node(self, tx: Transaction, name: str, heartbeat: NodeHeartbeat) -> None:
        """Note it."""
        assert tx.now >= heartbeat.at
        self.saved.append(name)

    async def send_report(self, tx: Transaction, *, only_changes: bool) -> None:
        """Note it."""
        assert tx.party == ALPHA
        self.reports.append(only_changes)

    async def forget(self, tx: Transaction, ended_before: datetime) -> None:
        """Note it."""
        assert ended_before < tx.now
        self.forgotten.append(ended_before)

    async def show_ports(self) -> None:
        """How many it knows."""
        self._agent_metrics.ports_active.set(len(self.ports))

    def nodes_heard_at(self) -> list[datetime]:
        """All that were heard."""
        return list(self.heard_at.values())


@pytest.fixture
def clock() -> ManualClock:
    """Stands still."""
    return ManualClock()


@pytest.fixture
def broker() -> MemoryBroker:
    """With the agent and whom it talks to."""
    return MemoryBroker(BROKER, ALPHA, NODE, OTHER)


@pytest.fixture
def metrics() -> AgentMetrics:
    """The agent's."""
    return AgentMetrics(CollectorRegistry())


@pytest.fixture
async def agent(
    tmp_path: Path, broker: MemoryBroker, clock: ManualClock, metrics: AgentMetrics
) -> AsyncIterator[Agent]:
    """Started, not running."""
    async with Store(f"sqlite:///{tmp_path}/a.db", ALPHA, clock=clock) as store:
        made = Agent(store, broker, metrics)
        await made.start()
        yield made


async def hear(agent: Agent, sender: Party, message: Message) -> None:
    """A message, as the bus delivers it."""
    await agent.handle(seal(message, source=sender, message_id=uuid4(), now=agent.store.clock()))


async def test_a_node_is_believed_about_its_own_ports(agent: Agent, broker: MemoryBroker) -> None:
    """What it answers goes to the broker, or to the handler with the port's record."""
    await hear(agent, NODE, STARTED)
    await hear(agent, NODE, FINISHED)
    await agent.relay.flush()
    assert [envelope.data for envelope in broker.received(BROKER)] == [STARTED]
    assert agent.finished == [Port()]


@pytest.mark.parametrize(
    ("sender", "message", "code"),
    [
        (NODE, OutboundStarted(port_id=UUID(int=8)), "unknown_port"),
        (OTHER, STARTED, "wrong_node"),
        (ALPHA, STARTED, "not_for_me"),
        (NODE, TransferAborted(port_id=PORT, side=Side.OUTBOUND, guest_running=True), "not_for_me"),
        (NODE, ListVms(), "not_for_me"),
    ],
)
async def test_anything_else_becomes_a_dead_letter(agent: Agent, sender: Party, message: Message, code: str) -> None:
    """With a code that says why."""
    with pytest.raises(Reject) as caught:
        await hear(agent, sender, message)
    assert caught.value.code == code


async def test_a_node_is_stored_when_it_has_changed(agent: Agent, clock: ManualClock) -> None:
    """The broker is told of changes at once; a heartbeat like the last one costs no write."""
    await hear(agent, NODE, make_heartbeat(clock()))
    await hear(agent, NODE, make_heartbeat(clock()))
    await hear(agent, OTHER, make_heartbeat(clock()))
    assert (agent.saved, agent.reports) == (["alpha-1"], [True])
    await hear(agent, OTHER, make_heartbeat(clock(), vms=()))
    assert (agent.saved, agent.reports) == (["alpha-1", "alpha-2"], [True, True])


async def test_a_silent_node_is_shown(agent: Agent, clock: ManualClock, metrics: AgentMetrics) -> None:
    """By the clock of the agent."""
    await hear(agent, OTHER, make_heartbeat(clock()))
    await clock.advance(31)
    await hear(agent, NODE, make_heartbeat(clock()))
    await agent.show_figures()
    assert [metrics.nodes.labels(state)._value.get() for state in ("heard", "silent")] == [1, 1]


async def test_a_timer_reaches_its_handler(agent: Agent, clock: ManualClock) -> None:
    """With the port that it is about."""
    async with agent.store.transaction() as tx:
        await tx.arm(timer_key("overdue", PORT), clock())
    assert await agent.timers.run_due() == 1
    assert agent.overdue == [PORT]


async def test_it_reports_at_intervals_and_when_asked(agent: Agent) -> None:
    """Only what has changed, when it was asked."""
    agent.report_now()
    reports = asyncio.get_running_loop().create_task(agent.run_reports())
    async with asyncio.timeout(10):
        while len(agent.reports) < 3:
            await breathe()
    reports.cancel()
    await asyncio.gather(reports, return_exceptions=True)
    assert agent.reports[:3] == [True, False, False]
    assert agent.forgotten == []


async def test_a_store_that_is_away_does_not_end_the_reports(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is skipped; the next one comes."""
    real, away = agent.report, iter(range(2))

    async def report(*, only_changes: bool) -> None:
        for _ in away:
            raise StoreDown("x", "connection refused")
        await real(only_changes=only_changes)

    monkeypatch.setattr(agent, "report", report)
    reports = asyncio.get_running_loop().create_task(agent.run_reports())
    async with asyncio.timeout(10):
        while not agent.reports:
            await breathe()
    reports.cancel()
    await asyncio.gather(reports, return_exceptions=True)


async def test_old_records_are_deleted_once_an_hour(agent: Agent, clock: ManualClock) -> None:
    """Not at each report."""
    await clock.advance(3600)
    for _ in range(2):
        await agent._clean()
    assert [(clock() - before).days for before in agent.forgotten] == [90]


async def test_refusals_are_counted_after_the_commit(agent: Agent, metrics: AgentMetrics) -> None:
    """A transaction that fails counts nothing."""
    refusals = (Refusal(code="dues_open", rule="r", evidence="e"), Refusal(code="legal_hold", rule="r", evidence="e"))

    async def refuse(*, fail: bool) -> None:
        async with agent.store.transaction() as tx:
            count_refusals(tx, metrics.refusals_total, refusals)
            if fail:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        await refuse(fail=True)
    await refuse(fail=False)
    assert [metrics.refusals_total.labels(code)._value.get() for code in codes_of(refusals)] == [1, 1]


async def test_a_node_is_one_of_the_own_provider(agent: Agent, broker: MemoryBroker) -> None:
    """A node's name alone is enough."""
    async with agent.store.transaction() as tx:
        await send_to_node(tx, "alpha-2", STARTED, cause=None, deadline=None)
    await agent.relay.flush()
    assert [envelope.data for envelope in broker.received(OTHER)] == [STARTED]
