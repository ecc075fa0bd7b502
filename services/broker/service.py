"""The broker: what it does with each message and timer. It decides nothing; the saga, the rules, the registry and the
queries do.

Each message is one transaction: inbox mark, step and outgoing messages together; then it is acknowledged. The relay
publishes as soon as the commit is done: a guest may be paused until a request for switchover is answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from services.broker import extensions, gateways, inquiries, ledger, queries, registry
from services.broker.dns_keeper import DnsKeeper
from services.broker.inquiries import Inquiries
from services.broker.ledger import LedgerConflict, StoredPort
from services.broker.metrics import WAITING, BrokerMetrics
from services.broker.network_queries import network_of_port
from services.broker.plans.keeper import Plans
from services.broker.port_steps import Stepper, read_timer, repeat_answer, time_event
from services.broker.progress import ProgressRelay
from services.broker.questions import Questions
from services.broker.relay_lanes import LaneKeeper
from services.broker.rules.book import NO_BOOK, RuleBook
from services.broker.saga import (
    Decision,
    Heard,
    LanesOpened,
    SagaState,
    Send,
    Verdict,
)
from services.broker.settings import BrokerSettings
from services.broker.their_clock import on_our_clock
from shared.bus import BusDown, DeadLetter, LaneAdmin, Reject, Undeliverable, UrgentBus
from shared.logs import bind_log, get_logger, port_bound
from shared.messages import AnyEnvelope, Envelope, PortMessage, seal
from shared.messages.addresses import AddressesServed, EndExtension, ExtensionClosed, NetworkReported, NetworkShown
from shared.messages.approval import VmInspected
from shared.messages.nodes import CapacityReported, ClockDiffers, InventoryReported
from shared.messages.porting import GuestPaused, QuerySwitchover, RequestSwitchover
from shared.messages.queries import QueryFailed, Question, ShowVm
from shared.messages.rules import CheckRules, ListRules
from shared.messages.service_change import (
    CancelPort,
    CancelRefused,
    MessageRejected,
    PortProgressed,
    PortRequested,
)
from shared.parties import BadPartyName, Party, Role
from shared.stateful_service import StatefulService
from shared.store import RelayPolicy, Store, StoreDown, Timer, Transaction
from shared.tasks import Tasks

log = get_logger(__name__)

GAUGES_INTERVAL_S = 5.0
CONFLICT_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Before a step is decided again after another broker's; then the message goes back to the bus."""


class BrokerService(StatefulService):
    """The broker."""

    def __init__(
        self,
        settings: BrokerSettings,
        store: Store,
        bus: UrgentBus,
        lane_admin: LaneAdmin,
        metrics: BrokerMetrics,
        *,
        names: DnsKeeper | None = None,
        book: RuleBook = NO_BOOK,
    ) -> None:
        relay = RelayPolicy.from_settings(settings.store)
        super().__init__(store, bus, metrics.store, relay_policy=relay, unknown_code="unexpected_type")
        self._metrics = metrics
        self._urgent_bus = bus
        # Publishing of what urgent work has said; whoever waits for the next message does not wait for it.
        self._answers = Tasks("the broker's answers")
        self._silent_after = timedelta(seconds=settings.limits.provider_silent_s)
        self.lanes = LaneKeeper(store, lane_admin, self._lanes_opened)
        limits, self._names = settings.limits.limits(), names
        self._stepper = Stepper(
            *(settings.timing.timing(), limits, metrics),
            wake_lanes=self.lanes.wake,
            wake_names=names.wake if names is not None else None,
            anchor=settings.anchor.anchor(),
            basis=settings.broker.basis(),
            book=book,
        )
        self._inquiries = Inquiries(limits, silent_after=self._silent_after, book=book)
        self._questions = Questions(store, book, self._inquiries)
        self._plans = Plans(store, self.handlers, self._stepper, limits, self._silent_after)
        self._progress = ProgressRelay(store)
        self._told_of_clock: set[str] = set()
        self._listen()

    def _listen(self) -> None:
        self.handlers.on(PortRequested, self._port_requested)
        self.handlers.on(CancelPort, self._cancel_requested)
        self.handlers.on(RequestSwitchover, self._switchover_message)
        self.handlers.on(GuestPaused, self._switchover_message)
        self.handlers.on(PortMessage, self._port_message)
        self.handlers.on_every(QuerySwitchover, self._ownership_asked)
        self.handlers.on(InventoryReported, self._inventory_reported)
        self.handlers.on(CapacityReported, self._capacity_reported)
        self.handlers.on_every(PortProgressed, self._progress.progressed)
        self.handlers.on_every(Question, self._question)
        self.handlers.on_every(ShowVm, self._questions.vm_asked)
        self.handlers.on_every(CheckRules, self._questions.vm_asked)
        self.handlers.on_every(ListRules, self._questions.rules_asked)
        self.handlers.on(VmInspected, self._inquiries.inspected)
        self.handlers.on(NetworkReported, self._network_reported)
        self.handlers.on(ExtensionClosed, self._extension_closed)
        self.handlers.on(AddressesServed, gateways.served)
        self.handlers.on_every(EndExtension, self._end_extension)

    def loops(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """The urgent inbox, the relay's lanes, the gauges that are read from the ledger, and DNS."""
        urgent = self._urgent_bus.consume_urgent(self.handle, on_dead=self.on_dead)
        loops = {"lanes": self.lanes.run(), "gauges": self._show_gauges(), "plans": self._plans.run(), "urgent": urgent}
        return loops if self._names is None else {**loops, "names": self._names.run()}

    async def start(self) -> None:
        """Set the timers of all ports under way again; whatever is overdue fires at once. Each port is locked for that:
        another broker may take its steps meanwhile, and its newer timers must stand.
        """
        async with self.store.reading() as connection:
            port_ids = await ledger.active_ports(connection)
        for port_id in port_ids:
            async with self.store.transaction() as tx:
                stored = await ledger.load(tx, port_id)
                if stored is not None:
                    await self._stepper.rearm(tx, stored.state)
        log.info("resumed", ports=len(port_ids))

    # ---- ports --------------------------------------------------------------------------------------------------

    async def _port_requested(self, tx: Transaction, envelope: Envelope[PortRequested]) -> None:
        request, tenant = envelope.data, envelope.sender.owner
        known = await ledger.load(tx, request.port_id)
        if known is not None:
            await repeat_answer(tx, envelope, known)
            return
        if request.dry_run:
            bind_log(dry_run=True)
        facts = await registry.facts_for(tx.connection, request, tenant, now=tx.now, silent_after=self._silent_after)
        await self._stepper.begin(tx, envelope, request, tenant, facts)

    async def _port_message(self, tx: Transaction, envelope: Envelope[PortMessage]) -> None:
        stored = await self._load(tx, envelope.data.port_id)
        if stored is None:
            raise Reject("unknown_port", f"there is no port {envelope.data.port_id}")
        await self._step(tx, stored, on_our_clock(envelope, tx.now))

    async def _cancel_requested(self, tx: Transaction, envelope: Envelope[CancelPort]) -> None:
        port_id = envelope.data.port_id
        stored = await self._load(tx, port_id)
        if stored is not None:
            await self._step(tx, stored, envelope)
            return
        refused = CancelRefused(port_id=port_id, code="unknown_port", detail="there is no such port of yours")
        await tx.send(envelope.sender, refused, cause=envelope, correlation_id=port_id)

    async def _switchover_message(
        self, tx: Transaction, envelope: Envelope[RequestSwitchover] | Envelope[GuestPaused]
    ) -> None:
        started_s = time.monotonic()
        stored = await self._load(tx, envelope.data.port_id)
        if stored is None:
            raise Reject("unknown_port", f"there is no port {envelope.data.port_id}")
        decision = await self._step(tx, stored, envelope)
        if decision.state.committed and not stored.state.committed:
            seconds = self._metrics.switchover_commit_seconds
            tx.after_commit(lambda: seconds.observe(time.monotonic() - started_s))

    async def _ownership_asked(self, envelope: Envelope[QuerySwitchover]) -> None:
        """Asked by both nodes every few seconds: what changes nothing needs neither transaction nor outbox."""
        async with self.store.reading() as connection:
            stored = await ledger.look(connection, envelope.data.port_id)
        if stored is None:
            raise Reject("unknown_port", f"there is no port {envelope.data.port_id}")
        answers = self._stepper.answers(stored, Heard(envelope.sender, envelope.data), self.store.clock())
        if answers is None:
            async with self.store.transaction() as tx:
                if await tx.first_time(envelope):
                    await self._port_message(tx, envelope)
            return
        for answer in answers:
            self._answers.spawn(self._answer(envelope, answer), name="answer")

    async def _answer(self, question: Envelope[QuerySwitchover], answer: Send) -> None:
        now = self.store.clock()
        sealed = seal(
            answer.message, source=self.bus.party, message_id=uuid4(), now=now, cause=question, deadline=answer.deadline
        )
        try:
            await self.bus.publish(answer.to, sealed)
        except (BusDown, Undeliverable) as error:
            log.warning("question left unanswered; it will be asked again", to=str(answer.to), error=str(error))

    async def _load(self, tx: Transaction, port_id: UUID) -> StoredPort | None:
        stored = await ledger.load(tx, port_id)
        if stored is not None:
            _mark_dry_run(stored.state)
        return stored

    async def _step(self, tx: Transaction, stored: StoredPort, envelope: Envelope[PortMessage]) -> Decision:
        decision = await self._stepper.step(tx, stored, Heard(envelope.sender, envelope.data), envelope)
        if decision.state.ended:
            self._progress.forget(stored.state.port_id)
        return decision

    async def time_passed(self, tx: Transaction, timer: Timer) -> None:
        """A port's deadline or wake-up has come, or a provider has not answered a tenant's question."""
        if timer.key.startswith(inquiries.PREFIX):
            await self._inquiries.overdue(tx, timer)
            return
        if timer.key.startswith(extensions.PREFIX):
            await extensions.time_passed(tx, timer)
            tx.after_commit(self.lanes.wake)
            return
        if timer.key.startswith(gateways.PREFIX):
            await gateways.time_passed(tx, timer)
            return
        if await self._plans.time_passed(tx, timer):
            return
        port_id, kind = read_timer(timer)
        bind_log(port_id=str(port_id))
        stored = await self._load(tx, port_id)
        if stored is not None:
            event = await time_event(tx, kind, stored)
            decision = await self._stepper.step(tx, stored, event, None)
            if decision.verdict is Verdict.IGNORED:
                await self._stepper.rearm(tx, stored.state, after=tx.now)

    async def _lanes_opened(self, tx: Transaction, port_id: UUID) -> None:
        with port_bound(port_id):
            stored = await self._load(tx, port_id)
            if stored is not None:
                await self._stepper.step(tx, stored, LanesOpened(), None)

    # ---- providers and tenants ----------------------------------------------------------------------------------

    async def _inventory_reported(self, tx: Transaction, envelope: Envelope[InventoryReported]) -> None:
        provider = envelope.sender.owner
        conflicts = await registry.take_inventory(tx, provider, envelope.data)
        if conflicts:
            tx.after_commit(lambda: self._conflicts_found(provider, conflicts))
        await self._tell_if_clock_differs(tx, envelope)

    def _conflicts_found(self, provider: str, conflicts: int) -> None:
        self._metrics.registry_conflicts_total.inc(conflicts)
        log.warning("inventory conflicts with the registry", provider=provider, vms=conflicts)

    async def _capacity_reported(self, tx: Transaction, envelope: Envelope[CapacityReported]) -> None:
        await registry.take_capacity(tx, envelope.sender.owner, envelope.data)
        await self._tell_if_clock_differs(tx, envelope)

    async def _tell_if_clock_differs(self, tx: Transaction, report: AnyEnvelope) -> None:
        """So that no agent believes in our deadlines too early; once more when its clock is right again."""
        ahead_s = self.clocks.ahead(report.source, tx.now).total_seconds()
        if ahead_s or report.source in self._told_of_clock:
            await tx.send(report.sender, ClockDiffers(reported_at=report.time, ahead_s=ahead_s), cause=report)
            (self._told_of_clock.add if ahead_s else self._told_of_clock.discard)(report.source)

    async def _question(self, envelope: Envelope[Question]) -> None:
        async with self.store.reading() as connection:
            answer = await queries.answer(connection, envelope.data, envelope.sender.owner)
        if answer is None:
            raise Reject("unexpected_type", f"the broker has no answer to {type(envelope.data).__name__}")
        async with self.store.transaction() as tx:
            await tx.send(envelope.sender, answer, cause=envelope)

    async def _network_reported(self, tx: Transaction, envelope: Envelope[NetworkReported]) -> None:
        await extensions.reported(tx, envelope)
        tx.after_commit(self.lanes.wake)

    async def _extension_closed(self, tx: Transaction, envelope: Envelope[ExtensionClosed]) -> None:
        await extensions.closed(tx, envelope)
        tx.after_commit(self.lanes.wake)

    async def _end_extension(self, envelope: Envelope[EndExtension]) -> None:
        """Answered as `ShowNetwork` is, with what has become of it; asked again, it is answered again."""
        port_id, tenant = envelope.data.port_id, envelope.sender
        async with self.store.transaction() as tx:
            answer = await network_of_port(tx.connection, port_id, tenant.owner)
            if isinstance(answer, NetworkShown):
                if not await extensions.end_asked(tx, port_id, tenant):
                    answer = QueryFailed(code="no_extension", detail=f"port {port_id} has no extension to end")
                else:
                    answer = await network_of_port(tx.connection, port_id, tenant.owner)
            await tx.send(tenant, answer, cause=envelope)
            tx.after_commit(self.lanes.wake)

    async def on_dead(self, letter: DeadLetter) -> None:
        """A message was given up: tell its sender, if that is a tenant that the bus has proven."""
        try:
            sender = Party.parse(letter.sender or "")
        except BadPartyName:
            return
        if sender.role is not Role.TENANT:
            return
        rejected = MessageRejected(code=letter.code[:64], reason=letter.reason, message_id=letter.message_id or "")
        async with self.store.transaction() as tx:
            await tx.send(sender, rejected)

    # ---- the frame ----------------------------------------------------------------------------------------------

    async def run(self, running: Callable[[], None] | None = None) -> None:
        """Start, call ``running``, then work until cancelled."""
        async with self._answers:
            await super().run(running)

    async def handle(self, envelope: AnyEnvelope) -> None:
        """Store the effect of one message. An urgent one goes before all other work, whichever inbox it came by."""
        if not type(envelope.data).URGENT:
            await super().handle(envelope)
            return
        with self.store.turns.urgent():
            await super().handle(envelope)
            outgoing, self.store.urgent_outgoing = self.store.urgent_outgoing, []
            if outgoing:
                self._answers.spawn(self.relay.send_now(outgoing), name="publish")

    async def expired(self, envelope: AnyEnvelope) -> None:
        """Nobody waits for this any more: note it, because it may also be that somebody's clock is wrong."""
        reason = f"expired {envelope.deadline}, sent {envelope.time}; if this is now, the sender's clock is wrong"
        log.warning(
            "expired message ignored", message=type(envelope.data).__name__, sender=envelope.source, reason=reason
        )
        if isinstance(envelope.data, Question):
            # A tenant's clock is not known, and its session's queue is gone if it no longer waits.
            await self.dispatch(envelope)
        if not isinstance(envelope.data, PortMessage) or isinstance(envelope.data, PortRequested | QuerySwitchover):
            return
        async with self.store.transaction() as tx:
            stored = await ledger.load(tx, envelope.data.port_id)
            if stored is not None and await tx.first_time(envelope):
                kind = type(envelope.data).__name__
                line = ledger.Event(envelope.source, kind, stored.state.phase, "ignored", reason, envelope.id)
                await ledger.record(tx, envelope.data.port_id, line)

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for a database that is away; take a step again when another broker was faster."""
        await super().attempt(lambda: _decide_again(work))

    async def _show_gauges(self) -> None:
        while True:
            try:
                async with self.store.reading() as connection:
                    self._metrics.show_active(await ledger.active_phases(connection))
                    since = await ledger.oldest_since(connection, WAITING)
                    self._metrics.show_extensions(await extensions.ages_s(connection, now := self.store.clock()))
                self._metrics.show_waiting({phase: (now - at).total_seconds() for phase, at in since.items()})
            except (StoreDown, SQLAlchemyError) as error:
                log.warning("ledger unavailable for gauges", error=str(error))
            await asyncio.sleep(GAUGES_INTERVAL_S)


async def _decide_again(work: Callable[[], Awaitable[None]]) -> None:
    """Repeat a step that was decided on what is no longer true, a few times."""
    for pause_s in CONFLICT_PAUSES_S:
        try:
            await work()
        except (LedgerConflict, IntegrityError) as error:
            # Another broker took a step of this port, or entered the same port, between our look and our commit.
            log.info("ledger changed meanwhile; deciding again", error=str(error))
        else:
            return
        await asyncio.sleep(pause_s)
    await work()


def _mark_dry_run(state: SagaState) -> None:
    """Lines about a dry run say so: nothing is moved for it."""
    if state.request.dry_run:
        bind_log(dry_run=True)
