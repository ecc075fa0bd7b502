"""Takes the steps of ports: runs the saga, and stores what it decides. The only caller of the saga.

The new state, the record, the timers and the outgoing messages of a step are one transaction; logs and metrics follow
after its commit.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from services.broker import extensions, gateways, ledger, rules
from services.broker.cost_basis import read_basis
from services.broker.costs.basis import NO_BASIS, Basis
from services.broker.ledger import StoredPort
from services.broker.metrics import BrokerMetrics
from services.broker.plans.records import port_ended
from services.broker.relay_lanes import want
from services.broker.rules import Facts, Limits
from services.broker.rules.book import NO_BOOK, RuleBook
from services.broker.saga import (
    NO_ANCHOR,
    NO_RULES,
    Alarm,
    Anchor,
    CloseLanes,
    CommitEpoch,
    DeadlinePassed,
    Decision,
    Effect,
    Event,
    Heard,
    KeepExtension,
    LanesOpened,
    OpenLanes,
    PortRules,
    RecordEnd,
    RuleBroken,
    RuleDue,
    SagaState,
    Send,
    Settled,
    Timing,
    Verdict,
    WakeUp,
    begin,
    begin_refused,
    step,
)
from shared.logs import get_logger, port_bound
from shared.messages import AnyEnvelope, Envelope, Message, Refusal
from shared.messages.addresses import ServeAddresses
from shared.messages.porting import QuerySwitchover
from shared.messages.service_change import BEST, PortAccepted, PortPhase, PortRefused, PortRequested
from shared.parties import BROKER, Name
from shared.store import Timer, Transaction

log = get_logger(__name__)

LARGEST_RECORDED_BODY = 64 * 1024
"""In characters of JSON. Longer messages, such as those with two domain XMLs, are recorded without their body."""


def timer_key(port_id: UUID, kind: str) -> str:
    """The key of a port's timer; ``kind`` is ``deadline``, ``wake`` or ``rule``."""
    return f"port:{port_id}:{kind}"


def read_timer(timer: Timer) -> tuple[UUID, str]:
    """The port and the kind, as in `timer_key`."""
    _, port_id, kind = timer.key.split(":")
    return UUID(port_id), kind


class Stepper:
    """Begins ports and takes their steps. ``wake_lanes`` is called after a commit that opens or closes lanes,
    ``wake_names`` after one that gives a VM a new owner. ``basis`` is what the settings say of money.
    """

    def __init__(
        self,
        timing: Timing,
        limits: Limits,
        metrics: BrokerMetrics,
        *,
        wake_lanes: Callable[[], None],
        wake_names: Callable[[], None] | None = None,
        anchor: Anchor = NO_ANCHOR,
        basis: Basis = NO_BASIS,
        book: RuleBook = NO_BOOK,
    ) -> None:
        self._timing = timing
        self._limits = limits
        self._metrics = metrics
        self._wake_lanes = wake_lanes
        self._wake_names = wake_names
        self._anchor = anchor
        self._basis = basis
        self._book = book

    async def begin(
        self, tx: Transaction, envelope: AnyEnvelope, request: PortRequested, tenant: Name, facts: Facts
    ) -> None:
        """Verify a new request and record it, accepted or refused."""
        refusals = rules.verify(request, tenant, facts, self._limits, tx.now)
        known = facts.vm if facts.vm is not None and facts.vm.tenant == tenant else None
        name, epoch = (known.name, known.epoch) if known else (str(request.vm_uuid), 1)
        if refusals:
            decision = begin_refused(
                request, tenant_name=tenant, vm_name=name, epoch=epoch, refusals=refusals, now=tx.now
            )
        else:
            candidates = rules.candidates(request, facts)
            decision = begin(
                request,
                tenant_name=tenant,
                vm_name=name,
                epoch=epoch,
                candidates=candidates,
                now=tx.now,
                timing=self._timing,
                anchor=self._anchor,
                basis=await read_basis(tx.connection, self._basis, request, candidates),
                rules=self._rules(request, tenant, candidates, tx.now),
            )
        await ledger.add(tx, decision.state)
        await self._apply(tx, None, decision, _sender_and_type(envelope), envelope)

    def _rules(self, request: PortRequested, tenant: Name, candidates: tuple[Name, ...], now: datetime) -> PortRules:
        facts = self._book.facts(
            vm_uuid=request.vm_uuid,
            tenant=tenant,
            donor=request.donor,
            recipient=None if request.recipient == BEST else request.recipient,
            requested_at=now,
            wanted_start=request.limits.window_start,
        )
        return self._book.for_port(facts, candidates) if self._book.regimes else NO_RULES

    async def step(self, tx: Transaction, stored: StoredPort, event: Event, envelope: AnyEnvelope | None) -> Decision:
        """Take one step of a port that `ledger.load` has locked; ``envelope`` is the message, if the event is one."""
        decision = step(stored.state, event, tx.now, self._timing)
        if decision.state != stored.state:
            await ledger.save(tx, stored, decision.state)
        about = _sender_and_type(envelope) if envelope is not None else (str(BROKER), _event_name(event))
        await self._apply(tx, stored.state, decision, about, envelope)
        return decision

    def answers(self, stored: StoredPort, question: Heard[QuerySwitchover], now: datetime) -> tuple[Send, ...] | None:
        """What the saga answers to a question that changes nothing; None when it must be taken as a step."""
        decision = step(stored.state, question, now, self._timing)
        sends = tuple(effect for effect in decision.effects if isinstance(effect, Send))
        is_only_an_answer = decision.verdict is Verdict.HANDLED and decision.state == stored.state
        return sends if is_only_an_answer and len(sends) == len(decision.effects) else None

    async def rearm(self, tx: Transaction, state: SagaState, *, after: datetime | None = None) -> None:
        """Set a port's timers to what its state says, whatever they were before; the port is locked.

        With ``after`` only those that are due later: for a timer that was taken, but too early, because the clock has
        stepped back or the state is newer than the timer. Otherwise the port would wait without it for ever.
        """
        for kind, due_at in _timers(state).items():
            if after is None or (due_at is not None and due_at > after):
                await _set_timer(tx, state.port_id, kind, due_at)

    async def _apply(
        self,
        tx: Transaction,
        before: SagaState | None,
        decision: Decision,
        about: tuple[str, str],
        envelope: AnyEnvelope | None,
    ) -> None:
        state = decision.state
        sender, kind = about
        body = envelope.data.model_dump_json() if envelope is not None else None
        entry = ledger.Event(
            sender=sender,
            type=kind,
            phase=state.phase,
            verdict=decision.verdict,
            detail=decision.note,
            message_id=envelope.id if envelope is not None else None,
            body=body if body is not None and len(body) <= LARGEST_RECORDED_BODY else None,
        )
        if not decision.quiet:
            await ledger.record(tx, state.port_id, entry)
        for effect in decision.effects:
            await self._apply_effect(tx, state, effect, envelope)
        was = _timers(before) if before is not None else {}
        for timer, due_at in _timers(state).items():
            if was.get(timer) != due_at:
                await _set_timer(tx, state.port_id, timer, due_at)
        now = tx.now
        tx.after_commit(lambda: self._report(before, decision, kind, sender, now))

    async def _apply_effect(self, tx: Transaction, state: SagaState, effect: Effect, cause: AnyEnvelope | None) -> None:
        match effect:
            case Send():
                await tx.send(
                    effect.to, effect.message, cause=cause, correlation_id=state.port_id, deadline=effect.deadline
                )
                if isinstance(effect.message, ServeAddresses):
                    await gateways.told(tx, effect.to, effect.message)
            case CommitEpoch():
                await ledger.commit_epoch(tx, effect, state.port_id)
                if self._wake_names is not None:
                    tx.after_commit(self._wake_names)
            case OpenLanes():
                await want(tx, effect.ends, "extended" if effect.extended else "open")
                tx.after_commit(self._wake_lanes)
            case CloseLanes():
                await want(tx, effect.ends, "extension" if effect.keep_extension else "closed")
                tx.after_commit(self._wake_lanes)
            case KeepExtension():
                await extensions.keep(tx, state.port_id, effect)
                tx.after_commit(self._wake_lanes)
            case RecordEnd():
                await port_ended(tx, state.port_id)
                if effect.sla is not None:
                    await ledger.record_sla(tx, state, effect.sla)
                    await extensions.ported_on(tx, state.request.vm_uuid, state.port_id)
            case Alarm():
                entry = ledger.Event(str(BROKER), f"alarm:{effect.code}", state.phase, "alarm", effect.detail)
                await ledger.record(tx, state.port_id, entry)
            case RuleBroken():
                kind = f"{effect.how}:{effect.rule}"
                entry = ledger.Event(str(BROKER), kind, state.phase, effect.how, effect.detail)
                await ledger.record(tx, state.port_id, entry)

    def _report(self, before: SagaState | None, decision: Decision, kind: str, sender: str, now: datetime) -> None:
        """Log and count what is now durable."""
        # The commit may happen after the message's own `port_bound` has ended.
        with port_bound(decision.state.port_id, vm=decision.state.vm_name):
            self._log_and_count(before, decision, kind, sender, now)

    def _log_and_count(
        self, before: SagaState | None, decision: Decision, kind: str, sender: str, now: datetime
    ) -> None:
        state = decision.state
        level = log.warning if decision.verdict is Verdict.REFUSED else log.info
        level = log.debug if decision.quiet else level
        was = before.phase if before is not None else None
        level("port step", event_type=kind, sender=sender, was=was, phase=state.phase, reason=decision.note)
        if before is not None and before.phase is not state.phase:
            spent_s = (now - before.phase_since).total_seconds()
            self._metrics.phase_duration_seconds.labels(before.phase).observe(max(0.0, spent_s))
        for effect in decision.effects:
            if isinstance(effect, Alarm):
                log.error("operator needed", code=effect.code, reason=effect.detail)
            elif isinstance(effect, RuleBroken):
                level = log.error if effect.how == "overdue" else log.warning
                level("rule broken", regime=effect.regime, rule=effect.rule, how=effect.how, reason=effect.detail)
                self._metrics.rules_broken_total.labels(effect.how, effect.regime, effect.rule).inc()
            elif isinstance(effect, RecordEnd):
                self._count_end(state, effect)

    def _count_end(self, state: SagaState, end: RecordEnd) -> None:
        self._metrics.ports_total.labels(end.outcome).inc()
        if end.outcome is PortPhase.REFUSED:
            for refusal in state.refusals:
                self._metrics.refusals_total.labels(refusal.code).inc()
        if end.sla is not None:
            self._metrics.downtime_seconds.observe(end.sla.measured_downtime_ms / 1000)
            if end.sla.measured_outage_ms is not None:
                self._metrics.outage_seconds.observe(end.sla.measured_outage_ms / 1000)
            self._metrics.promises_total.labels("yes" if end.sla.kept else "no").inc()


def _sender_and_type(envelope: AnyEnvelope) -> tuple[str, str]:
    return envelope.source, type(envelope.data).__name__


def _event_name(event: Event) -> str:
    match event:
        case Heard():
            return type(event.message).__name__
        case DeadlinePassed() | WakeUp() | RuleDue() | LanesOpened() | Settled():
            return type(event).__name__


def _timers(state: SagaState) -> dict[str, datetime | None]:
    """When each timer of a port in this state is due; a port that has just been asked for has none yet."""
    return {"deadline": state.deadline, "wake": state.wake_at, "rule": state.rule_due_at}


async def _set_timer(tx: Transaction, port_id: UUID, kind: str, due_at: datetime | None) -> None:
    """Set a stored timer to the time in the state, or remove it."""
    if due_at is None:
        await tx.disarm(timer_key(port_id, kind))
    else:
        await tx.arm(timer_key(port_id, kind), due_at)


async def time_event(tx: Transaction, kind: str, stored: StoredPort) -> Event:
    """The event of a port's timer."""
    if kind == "deadline":
        return DeadlinePassed(stored.progress_at)
    if kind == "wake":
        return WakeUp()
    state = stored.state
    return RuleDue(await ledger.ported_since(tx.connection, state.request.vm_uuid, state.requested_at))


async def repeat_answer(tx: Transaction, envelope: Envelope[PortRequested], known: StoredPort) -> None:
    """The port id is known: a repeated request is answered as before, another one is refused."""
    request, state = envelope.data, known.state
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
