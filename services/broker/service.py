"""The broker's shell: messages and timers in, transactions out. Decides nothing; wires saga, rules, registry and
queries.

Each message is one transaction: inbox mark, step and outgoing messages together; then it is acknowledged. The relay
publishes as soon as the commit is done, so that a request for switchover, which waits with the guest paused, is
answered at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from services.broker import ledger, queries, registry
from services.broker.ledger import LedgerConflict, StoredPort
from services.broker.metrics import BrokerMetrics
from services.broker.port_steps import Stepper, read_timer
from services.broker.relay_lanes import LaneKeeper
from services.broker.saga import DeadlinePassed, Event, Heard, LanesOpened, WakeUp
from services.broker.settings import BrokerSettings
from shared.bus import Bus, DeadLetter, LaneAdmin, Reject
from shared.logs import get_logger, port_bound
from shared.messages import AnyEnvelope, Message, PortMessage, Refusal
from shared.messages.nodes import CapacityReported, InventoryReported
from shared.messages.porting import RequestSwitchover
from shared.messages.queries import Question
from shared.messages.service_change import (
    CancelPort,
    CancelRefused,
    MessageRejected,
    PortAccepted,
    PortPhase,
    PortProgressed,
    PortRefused,
    PortRequested,
    TransferPhase,
)
from shared.parties import BROKER, BadPartyName, Party, Role
from shared.store import OutboxRelay, RelayPolicy, Store, StoreUnusable, Timer, TimerRunner, Transaction

log = get_logger(__name__)

PROGRESS_INTERVAL_S = 1.0
PROGRESS_LIFETIME = timedelta(seconds=30)
GAUGES_INTERVAL_S = 5.0
STORE_PATIENCE_S = 60.0
"""How long a message waits for a database that is away before it goes back to the bus."""

MOVING = frozenset(
    {PortPhase.STARTING, PortPhase.TRANSFERRING, PortPhase.SWITCHING, PortPhase.RESOLVING, PortPhase.FINISHING}
)


@dataclass(slots=True)
class _Shown:
    """The progress of a port that was last stored and forwarded."""

    percent: int
    phase: TransferPhase
    at_s: float


def _is_newer(progress: PortProgressed, known: PortProgressed | None) -> bool:
    """Percents never run backwards, and the transfer never back to the seeding; but it begins at zero after it."""
    if known is None:
        return True
    ahead, was_ahead = (each.phase is TransferPhase.SEEDING for each in (progress, known))
    return was_ahead if ahead != was_ahead else progress.percent >= known.percent


class BrokerService:
    """The broker. ``run`` works until cancelled; tests call ``handle`` and ``on_timer`` themselves."""

    def __init__(
        self, settings: BrokerSettings, store: Store, bus: Bus, lane_admin: LaneAdmin, metrics: BrokerMetrics
    ) -> None:
        self._settings = settings
        self._store = store
        self._bus = bus
        self._metrics = metrics
        self._silent_after = timedelta(seconds=settings.limits.provider_silent_s)
        self.lanes = LaneKeeper(store, lane_admin, self._on_lanes_opened)
        self._stepper = Stepper(settings.timing.timing(), settings.limits.limits(), metrics, wake_lanes=self.lanes.wake)
        self.relay = OutboxRelay(
            store,
            bus,
            policy=RelayPolicy.from_settings(settings.store),
            on_depth=metrics.store.outbox_messages.set,
        )
        self.timers = TimerRunner(store, self.on_timer)
        self._shown: dict[UUID, _Shown] = {}

    async def run(self) -> None:
        """Resume what was under way, then work until cancelled."""
        await self.resume()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.relay.run(), name="outbox relay")
            group.create_task(self.timers.run(), name="timers")
            group.create_task(self.lanes.run(), name="lanes")
            group.create_task(self._show_gauges(), name="gauges")
            group.create_task(self._bus.consume(self.handle, on_dead=self.on_dead), name="inbox")

    async def resume(self) -> None:
        """Set the timers of all ports under way again; whatever is overdue fires at once."""
        async with self._store.transaction() as tx:
            states = await ledger.active_states(tx.connection)
            for state in states:
                await self._stepper.rearm(tx, state)
        log.info("resumed", ports=len(states))

    async def check_store(self) -> str | None:
        """For readiness: None, or why the ledger cannot be used."""
        try:
            await self._store.check()
        except StoreUnusable as error:
            return error.reason
        return None

    # Messages

    async def handle(self, envelope: AnyEnvelope) -> None:
        """One message from the inbox; raises `Reject` for what can never be acted on."""
        port_id = getattr(envelope.data, "port_id", None)
        with port_bound(port_id):
            if envelope.expired(self._store.clock()):
                await self._patiently(lambda: self._expired(envelope))
                return
            await self._patiently(lambda: self._dispatch(envelope))

    async def _expired(self, envelope: AnyEnvelope) -> None:
        """Nobody waits for this any more: note it, because it may also be that somebody's clock is wrong."""
        detail = f"expired {envelope.deadline}, sent {envelope.time}; if this is now, the sender's clock is wrong"
        log.warning("expired message ignored", event_type=envelope.type, sender=envelope.source, detail=detail)
        if not isinstance(envelope.data, PortMessage) or isinstance(envelope.data, PortRequested):
            return
        async with self._store.transaction() as tx:
            stored = await ledger.load(tx, envelope.data.port_id)
            if stored is not None and await tx.first_time(envelope):
                kind = type(envelope.data).__name__
                line = ledger.Event(envelope.source, kind, stored.state.phase, "ignored", detail, envelope.id)
                await ledger.record(tx, envelope.data.port_id, line)

    async def _dispatch(self, envelope: AnyEnvelope) -> None:
        match envelope.data:
            case PortRequested() as request:
                await self._request(envelope, request)
            case PortProgressed() as progress:
                await self._progress(envelope, progress)
            case InventoryReported() | CapacityReported() as report:
                await self._report(envelope, report)
            case Question() as question:
                await self._question(envelope, question)
            case PortMessage() as message:
                await self._port_message(envelope, message)
            case other:
                raise Reject("unexpected_type", f"the broker does not act on {type(other).__name__}")

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Take the step again from what is stored when it lost a race; wait for a database that is away, within
        bounds.
        """
        give_up_at = time.monotonic() + STORE_PATIENCE_S
        pause_s = 0.05
        while True:
            try:
                await work()
            except (LedgerConflict, IntegrityError) as error:
                # Another broker took a step of this port, or entered the same port, between our look and our commit.
                if time.monotonic() > give_up_at or pause_s > 1.0:
                    raise
                log.info("lost a race in the ledger; deciding again", reason=str(error))
            except (DBAPIError, ConnectionError) as error:
                if time.monotonic() > give_up_at:
                    raise
                log.warning("the ledger cannot be used now; waiting for it", error=str(error))
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 2.0)

    async def _request(self, envelope: AnyEnvelope, request: PortRequested) -> None:
        tenant = envelope.sender.owner
        async with self._store.transaction() as tx:
            if not await tx.first_time(envelope):
                return
            known = await ledger.load(tx, request.port_id)
            if known is not None:
                await _repeat_answer(tx, envelope, request, known)
                return
            facts = await registry.facts_for(
                tx.connection, request, tenant, now=tx.now, silent_after=self._silent_after
            )
            await self._stepper.begin(tx, envelope, request, tenant, facts)

    async def _port_message(self, envelope: AnyEnvelope, message: PortMessage) -> None:
        started_s = time.monotonic()
        async with self._store.transaction() as tx:
            if not await tx.first_time(envelope):
                return
            stored = await ledger.load(tx, message.port_id)
            if stored is None:
                await _unknown_port(tx, envelope, message)
                return
            decision = await self._stepper.step(tx, stored, Heard(envelope.sender, message), envelope)
            if isinstance(message, RequestSwitchover) and decision.state.committed:
                tx.after_commit(lambda: self._metrics.switchover_commit_seconds.observe(time.monotonic() - started_s))
            if decision.state.ended:
                self._shown.pop(message.port_id, None)

    async def _progress(self, envelope: AnyEnvelope, progress: PortProgressed) -> None:
        """Keep the newest and pass it on, at most once a second or per whole percent; it is no step and no line of
        the record.
        """
        shown = self._shown.get(progress.port_id)
        now_s = time.monotonic()
        same = shown is not None and (shown.percent, shown.phase) == (progress.percent, progress.phase)
        if same and shown is not None and now_s - shown.at_s < PROGRESS_INTERVAL_S:
            return
        async with self._store.transaction() as tx:
            if not await tx.first_time(envelope):
                return
            stored = await ledger.look(tx.connection, progress.port_id)
            if stored is None:
                raise Reject("unknown_port", f"there is no port {progress.port_id}")
            if envelope.sender != stored.state.donor_node:
                raise Reject("not_a_party", f"{envelope.sender} is not the donor's node of port {progress.port_id}")
            if stored.state.phase not in MOVING or not _is_newer(progress, stored.progress):
                return
            await ledger.save_progress(tx, progress)
            await tx.send(
                stored.state.tenant_party,
                progress,
                cause=envelope,
                correlation_id=progress.port_id,
                deadline=tx.now + PROGRESS_LIFETIME,
            )
        self._shown[progress.port_id] = _Shown(progress.percent, progress.phase, now_s)

    async def _report(self, envelope: AnyEnvelope, report: InventoryReported | CapacityReported) -> None:
        provider = envelope.sender.owner
        async with self._store.transaction() as tx:
            if not await tx.first_time(envelope):
                return
            if isinstance(report, CapacityReported):
                await registry.take_capacity(tx, provider, report)
                return
            conflicts = await registry.take_inventory(tx, provider, report)
            if conflicts:
                tx.after_commit(lambda: self._conflicts_found(provider, conflicts))

    def _conflicts_found(self, provider: str, conflicts: int) -> None:
        self._metrics.registry_conflicts_total.inc(conflicts)
        log.warning("an inventory lists VMs that belong to another provider", provider=provider, vms=conflicts)

    async def _question(self, envelope: AnyEnvelope, question: Message) -> None:
        async with self._store.reading() as connection:
            answer = await queries.answer(connection, question, envelope.sender.owner)
        if answer is None:
            raise Reject("unexpected_type", f"the broker has no answer to {type(question).__name__}")
        async with self._store.transaction() as tx:
            await tx.send(envelope.sender, answer, cause=envelope)

    async def on_dead(self, letter: DeadLetter) -> None:
        """A message was given up: tell its sender, if that is a tenant that the bus has proven."""
        if letter.sender is None:
            return
        try:
            sender = Party.parse(letter.sender)
        except BadPartyName:
            return
        if sender.role is not Role.TENANT:
            return
        rejected = MessageRejected(
            code=letter.code[:64], reason=letter.reason[:4000], message_id=(letter.message_id or "")[:200]
        )
        async with self._store.transaction() as tx:
            await tx.send(sender, rejected)

    # Time and lanes

    async def on_timer(self, timer: Timer) -> None:
        """A port's deadline or wake-up has come."""
        port_id, kind = read_timer(timer)
        with port_bound(port_id):
            async with self._store.transaction() as tx:
                if not await tx.claim_timer(timer.key, timer.due_at):
                    return
                stored = await ledger.load(tx, port_id)
                if stored is None:
                    return
                event: Event = DeadlinePassed(stored.progress_at) if kind == "deadline" else WakeUp()
                await self._stepper.step(tx, stored, event, None)

    async def _on_lanes_opened(self, tx: Transaction, port_id: UUID) -> None:
        with port_bound(port_id):
            stored = await ledger.load(tx, port_id)
            if stored is not None:
                await self._stepper.step(tx, stored, LanesOpened(), None)

    async def _show_gauges(self) -> None:
        while True:
            try:
                async with self._store.reading() as connection:
                    self._metrics.show_active(await ledger.active_phases(connection))
            except SQLAlchemyError as error:
                log.warning("gauges cannot be read from the ledger", error=str(error))
            await asyncio.sleep(GAUGES_INTERVAL_S)


async def _repeat_answer(tx: Transaction, envelope: AnyEnvelope, request: PortRequested, known: StoredPort) -> None:
    """The port id is known: a repeated request is answered as before, another one is refused."""
    state = known.state
    answer: Message = PortAccepted(port_id=request.port_id)
    if envelope.sender != state.tenant_party or request != state.request:
        taken = Refusal(
            code="port_id_taken",
            rule="a new request has a new port id",
            evidence=f"{request.port_id} is in use for another request",
        )
        answer = PortRefused(port_id=request.port_id, refused_by=str(BROKER), refusals=(taken,))
    elif state.phase is PortPhase.REFUSED:
        answer = PortRefused(port_id=request.port_id, refused_by=str(BROKER), refusals=state.refusals)
    await tx.send(envelope.sender, answer, cause=envelope, correlation_id=request.port_id)


async def _unknown_port(tx: Transaction, envelope: AnyEnvelope, message: PortMessage) -> None:
    if not isinstance(message, CancelPort):
        raise Reject("unknown_port", f"there is no port {message.port_id}")
    refused = CancelRefused(port_id=message.port_id, code="unknown_port", detail="there is no such port of yours")
    await tx.send(envelope.sender, refused, cause=envelope, correlation_id=message.port_id)
