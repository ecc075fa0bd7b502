"""What a provider's donor and recipient agents have in common: nodes that report to them, and a broker that asks.

Whom an agent believes, beyond the bus's proof of sender: the broker about ports; a node only about a port that the
agent knows and that this node holds. What a node says about any other port becomes a dead letter.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from prometheus_client import Counter

from shared.bus import Bus, Reject
from shared.logs import bind_log, get_logger
from shared.messages import AnyEnvelope, Envelope, Message, PortMessage, Refusal
from shared.messages.nodes import ClockDiffers, NodeHeartbeat
from shared.metrics import AgentMetrics
from shared.parties import BROKER, Role, node
from shared.stateful_service import StatefulService
from shared.store import RelayPolicy, Store, StoreDown, Timer, Transaction

log = get_logger(__name__)

HOUSEKEEPING_EVERY = timedelta(hours=1)


class NodePort(Protocol):
    """What an agent keeps of one port."""

    @property
    def node(self) -> str:
        """The node that holds the VM, or is to hold it."""
        ...


class AgentSettings(Protocol):
    """The settings that both agents have."""

    @property
    def node_silent_after_s(self) -> float:
        """A node that was not heard for so long counts as unreachable."""
        ...

    @property
    def report_every_s(self) -> float:
        """How often the broker gets this agent's report."""
        ...

    @property
    def keep_records_days(self) -> float:
        """How long records of ended ports are kept."""
        ...


P = TypeVar("P", bound=NodePort)
PM = TypeVar("PM", bound=PortMessage)
FromNode = Callable[[Transaction, Envelope[PM], P], Awaitable[None]]
PortTimer = Callable[[Transaction, Timer, UUID], Awaitable[None]]


def timer_key(what: str, port_id: UUID) -> str:
    """The key of a port's timer; ``what`` is the name that its handler is registered under."""
    return f"{what}:{port_id}"


def codes_of(refusals: Iterable[Refusal]) -> list[str]:
    """The refusals' codes, for logs."""
    return [refusal.code for refusal in refusals]


def count_refusals(tx: Transaction, counter: Counter, refusals: Iterable[Refusal]) -> None:
    """Count each refusal by its code, once the transaction is durable."""
    for code in codes_of(refusals):
        tx.after_commit(counter.labels(code).inc)


def silence_s(heard_at: datetime, now: datetime) -> float:
    """For how many seconds a node has not been heard."""
    return max(0.0, (now - heard_at).total_seconds())


async def send_to_node(
    tx: Transaction, name: str, message: Message, *, cause: AnyEnvelope | None, deadline: datetime | None
) -> None:
    """Send a message to a node of this agent's own provider."""
    await tx.send(node(tx.party.owner, name), message, cause=cause, deadline=deadline)


async def pass_to_node(tx: Transaction, name: str, envelope: AnyEnvelope) -> None:
    """Pass the broker's command on to the node, with its deadline."""
    await send_to_node(tx, name, envelope.data, cause=envelope, deadline=envelope.deadline)


async def pass_to_broker(tx: Transaction, envelope: AnyEnvelope) -> None:
    """Pass a node's answer on to the broker."""
    await tx.send(BROKER, envelope.data, cause=envelope)


class ProviderAgent(StatefulService, Generic[P]):
    """The frame of both agents. ``P`` is what the agent keeps of a port."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        settings: AgentSettings,
        metrics: AgentMetrics,
        *,
        relay_policy: RelayPolicy | None,
    ) -> None:
        super().__init__(store, bus, metrics.store, relay_policy=relay_policy)
        self._agent_settings = settings
        self._agent_metrics = metrics
        self._timer_handlers: dict[str, PortTimer] = {}
        self._saved: dict[str, object] = {}
        """By node: what of its last heartbeat is in the store."""
        self._report_now = asyncio.Event()
        self._cleaned_at = store.clock()
        self.handlers.on_every(NodeHeartbeat, self._heartbeat)
        self.handlers.on_every(ClockDiffers, self._clock_differs)

    # ---- for subclasses -----------------------------------------------------------------------------------------

    @abstractmethod
    async def load_port(self, tx: Transaction, port_id: UUID) -> P | None:
        """What is kept of a port; None for one that was never asked for here."""

    @abstractmethod
    async def load_nodes(self) -> Mapping[str, object]:
        """Create the tables, recall what the nodes said last, and return what `take_heartbeat` returned then."""

    @abstractmethod
    def take_heartbeat(self, name: str, heartbeat: NodeHeartbeat) -> object:
        """Take a node's heartbeat in; returns the part that is stored, which is stored only when it has changed."""

    @abstractmethod
    async def save_node(self, tx: Transaction, name: str, heartbeat: NodeHeartbeat) -> None:
        """Store what a restarted agent needs to know of a node before its next heartbeat."""

    @abstractmethod
    async def send_report(self, tx: Transaction, *, only_changes: bool) -> None:
        """Send the broker this agent's periodic report; with ``only_changes`` only if it says something new."""

    @abstractmethod
    async def forget(self, tx: Transaction, ended_before: datetime) -> None:
        """Delete the records of what ended before this."""

    @abstractmethod
    async def show_ports(self) -> None:
        """Set the gauges of this agent's ports."""

    @abstractmethod
    def nodes_heard_at(self) -> list[datetime]:
        """When each node of the provider was heard last."""

    def on_node(self, kind: type[PM], handler: FromNode[PM, P]) -> None:
        """Call for a node's messages of this type, with the port that they are about, which is on that node."""

        async def checked(tx: Transaction, envelope: Envelope[PM]) -> None:
            await handler(tx, envelope, await self._port_of_sender(tx, envelope))

        self.handlers.on(kind, checked)

    def pass_on(self, *kinds: type[PortMessage]) -> None:
        """Pass a node's messages of these types on to the broker."""
        for kind in kinds:
            self.on_node(kind, self._pass_on)

    def on_port_timer(self, what: str, handler: PortTimer) -> None:
        """Call when a port's timer of this name (`timer_key`) has passed."""
        self._timer_handlers[what] = handler

    def report_now(self) -> None:
        """What is reported to the broker may have changed."""
        self._report_now.set()

    # ---- messages -----------------------------------------------------------------------------------------------

    async def _port_of_sender(self, tx: Transaction, envelope: Envelope[PM]) -> P:
        port_id, sender = envelope.data.port_id, envelope.sender
        if sender.role is not Role.NODE:
            raise Reject("not_for_me", f"{tx.party} has no use for {type(envelope.data).__name__} from {sender}")
        port = await self.load_port(tx, port_id)
        if port is None:
            raise Reject("unknown_port", f"{sender} reports on port {port_id}, which is unknown here")
        if sender.node != port.node:
            raise Reject("wrong_node", f"{sender} reports on port {port_id}, which is on node {port.node}")
        return port

    async def _pass_on(self, tx: Transaction, envelope: Envelope[PortMessage], _port: P) -> None:
        await pass_to_broker(tx, envelope)

    async def _heartbeat(self, envelope: Envelope[NodeHeartbeat]) -> None:
        name = envelope.sender.node
        lasting = self.take_heartbeat(name, envelope.data)
        if self._saved.get(name) == lasting:
            return
        async with self.store.transaction() as tx:
            await self.save_node(tx, name, envelope.data)
        self._saved[name] = lasting
        # The broker is told of a change at once.
        await self.report(only_changes=True)

    async def _clock_differs(self, envelope: Envelope[ClockDiffers]) -> None:
        """The broker has found our clocks apart: its deadlines are judged on its own clock from now on."""
        party, now = envelope.source, self.store.clock()
        before = self.clocks.ahead(party, now)
        self.clocks.answered(party, asked_at=envelope.data.reported_at, sent_at=envelope.time, now=now)
        self.show_clock(party, before)

    async def time_passed(self, tx: Transaction, timer: Timer) -> None:
        """Call the handler of a port's timer."""
        what, _, port = timer.key.partition(":")
        port_id = UUID(port)
        bind_log(port_id=port)
        await self._timer_handlers[what](tx, timer, port_id)

    # ---- at intervals -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Create the tables and recall what the nodes are."""
        self._saved = dict(await self.load_nodes())
        await self.show_figures()

    def loops(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """The reports to the broker."""
        return {"reports": self.run_reports()}

    async def run_reports(self) -> None:
        """Report at intervals and when asked to, and delete old records. Until cancelled."""
        while True:
            try:
                await self.report(only_changes=self._report_now.is_set())
                self._report_now.clear()
                await self._clean()
                await self.show_figures()
            except StoreDown as error:
                log.warning("store unavailable; report skipped", error=str(error))
            try:
                async with asyncio.timeout(self._agent_settings.report_every_s):
                    await self._report_now.wait()
            except TimeoutError:
                continue

    async def report(self, *, only_changes: bool) -> None:
        """Report to the broker now."""
        async with self.store.transaction() as tx:
            await self.send_report(tx, only_changes=only_changes)

    async def _clean(self) -> None:
        now = self.store.clock()
        if now - self._cleaned_at < HOUSEKEEPING_EVERY:
            return
        self._cleaned_at = now
        async with self.store.transaction() as tx:
            await self.forget(tx, now - timedelta(days=self._agent_settings.keep_records_days))

    async def dispatch(self, envelope: AnyEnvelope) -> bool:
        """Act on a message, then show what has changed."""
        changed = await super().dispatch(envelope)
        if changed:
            await self.show_figures()
        return changed

    async def on_timer(self, timer: Timer) -> None:
        """Act on a timer, then show what has changed."""
        await super().on_timer(timer)
        await self.show_figures()

    async def show_figures(self) -> None:
        """Set all gauges."""
        await self.show_ports()
        heard_at, now = self.nodes_heard_at(), self.store.clock()
        silent = sum((now - at).total_seconds() > self._agent_settings.node_silent_after_s for at in heard_at)
        self._agent_metrics.nodes.labels("silent").set(silent)
        self._agent_metrics.nodes.labels("heard").set(len(heard_at) - silent)
