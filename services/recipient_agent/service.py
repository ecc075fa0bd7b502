"""The recipient agent's shell: messages and timers in, one transaction each, messages out. Judges nothing itself.

Whom it believes, beyond the bus's proof of sender: the broker about ports; a node only about a port that is reserved
on that node. What a node says about any other port is dead-lettered. The broker is always answered, since it waits.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import structlog

from services.recipient_agent import records
from services.recipient_agent.assessment import Suitable, Terms, assess
from services.recipient_agent.capacity import Held, Nodes, room_on
from services.recipient_agent.domain import Prepared, prepare
from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.provision import identity_differences, provision_refusals
from services.recipient_agent.quote import make_quote
from services.recipient_agent.reservation import HOLDS_CAPACITY, ON_NODE, Phase, Reservation, agreement_refusals
from services.recipient_agent.settings import RecipientSection
from shared.bus import Reject
from shared.messages import AnyEnvelope, PortMessage, Refusal
from shared.messages.nodes import CapacityReported, NodeHeartbeat
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    InboundFinished,
    InboundOpened,
    OpenInbound,
    PortingFixed,
    ProvisionVm,
    QuoteDeclined,
    QuoteOffered,
    QuoteRequested,
    ReleaseReservation,
    ReservationRefused,
    ReservationRequested,
    Reserved,
    Side,
    TransferAborted,
    TransferFailed,
    VmProvisioned,
)
from shared.messages.service_change import PortCancelled, PortCompleted, PortFailed, Quote
from shared.parties import BROKER, Role, node
from shared.store import Store, Timer, Transaction

log = structlog.stdlib.get_logger(__name__)

HOUSEKEEPING_EVERY = timedelta(hours=1)
KEEP_QUOTES = timedelta(hours=1)
"""How long an expired quote is remembered, so that whoever comes late hears "expired" and not "unknown"."""

_COUNTED = HOLDS_CAPACITY | {Phase.PROVISIONED}
_SETTLED = frozenset({Phase.FIXED, *ON_NODE})


class RecipientService:
    """One provider's recipient agent. ``handle`` is for the bus, ``on_timer`` for the timer runner."""

    def __init__(self, store: Store, terms: Terms, settings: RecipientSection, metrics: RecipientMetrics) -> None:
        self._store = store
        self._terms = terms
        self._settings = settings
        self._metrics = metrics
        self._provider = store.party.owner
        self._nodes = Nodes()
        self._kept: dict[str, NodeHeartbeat] = {}
        self._reported: tuple[int, int] | None = None
        self._cleaned_at = store.clock()

    async def start(self) -> None:
        """Make the tables and recall what the nodes are."""
        await self._store.create_schema(records.metadata)
        self._kept = await records.load_nodes(self._store)
        for name, heartbeat in self._kept.items():
            self._nodes = self._nodes.heard(name, heartbeat, self._store.clock())
        await self._show_figures()

    # ---- messages ---------------------------------------------------------------------------------------------------

    async def handle(self, envelope: AnyEnvelope) -> None:
        """Store the effect of one message; raises `Reject` where it can never be acted on."""
        if isinstance(envelope.data, NodeHeartbeat):
            await self._heard(envelope, envelope.data)
            return
        if envelope.expired(self._store.clock()):
            # Who asked has gone on: a transfer that starts now would be nobody's.
            log.warning("a message came after its deadline", type=type(envelope.data).__name__, sender=envelope.source)
            return
        async with self._store.transaction() as tx:
            if await tx.first_time(envelope):
                await self._dispatch(tx, envelope)
        await self._show_figures()

    async def _dispatch(self, tx: Transaction, envelope: AnyEnvelope) -> None:
        match envelope.data:
            case QuoteRequested() as message:
                await self._quote(tx, envelope, message)
            case ReservationRequested() as message:
                await self._reserve(tx, envelope, message)
            case ReleaseReservation(port_id=port_id, reason=reason):
                await records.drop_quote(tx, port_id)
                await self._release(tx, port_id, reason)
            case PortingFixed() as message:
                await self._fixed(tx, message)
            case OpenInbound() as message:
                await self._open(tx, envelope, message)
            case AbortTransfer() as message:
                await self._abort(tx, envelope, message)
            case ProvisionVm() as message:
                await self._provision(tx, envelope, message)
            case PortFailed(port_id=port_id, vm_runs_at=provider) if provider == self._provider:
                log.error("a port failed after its VM had arrived; its reservation stays", port=str(port_id))
            case PortFailed(port_id=port_id) | PortCancelled(port_id=port_id):
                await self._release(tx, port_id, f"the port ended: {type(envelope.data).__name__}")
            case PortCompleted(port_id=port_id):
                log.info("port completed", port=str(port_id))
            case PortMessage() as message if envelope.sender.role is Role.NODE:
                await self._from_node(tx, envelope, message)
            case message:
                raise Reject("not_for_me", f"a recipient agent has no use for {type(message).__name__}")

    async def _from_node(self, tx: Transaction, envelope: AnyEnvelope, message: PortMessage) -> None:
        reservation = await self._reservation_of_node(tx, envelope, message.port_id)
        match message:
            case InboundOpened() | TransferFailed() | TransferAborted() | CompletionFailed() as news:
                await tx.send(BROKER, news, cause=envelope)
            case InboundFinished() as finished:
                await records.save(tx, reservation.arrived(tx.now))
                await tx.send(BROKER, finished, cause=envelope)
            case VmProvisioned() as provisioned:
                await self._provisioned(tx, envelope, reservation, provisioned)
            case _:
                raise Reject("not_for_me", f"a recipient agent has no use for {type(message).__name__}")

    async def _reservation_of_node(self, tx: Transaction, envelope: AnyEnvelope, port_id: UUID) -> Reservation:
        reservation = await records.load(tx, port_id)
        if reservation is None:
            raise Reject("unknown_port", f"{envelope.source} speaks of port {port_id}, which was never reserved here")
        if envelope.sender.node != reservation.node:
            raise Reject("wrong_node", f"{envelope.source} speaks of port {port_id}, which is {reservation.node}'s")
        return reservation

    # ---- quote and reservation --------------------------------------------------------------------------------------

    async def _quote(self, tx: Transaction, envelope: AnyEnvelope, message: QuoteRequested) -> None:
        if message.answer_by < tx.now:
            log.info("a quote was asked for too late to be answered", port=str(message.port_id))
            return
        answer = assess(
            message.vm,
            message.versions,
            tenant=message.tenant,
            nodes=self._nodes,
            held=await self._held(tx, except_port=message.port_id),
            terms=self._terms,
            now=tx.now,
        )
        if not isinstance(answer, Suitable):
            await tx.send(BROKER, QuoteDeclined(port_id=message.port_id, refusals=answer), cause=envelope)
            self._count(tx, answer)
            tx.after_commit(self._metrics.quotes_total.labels("declined").inc)
            return
        quote = make_quote(
            message.vm,
            message.limits,
            provider=self._provider,
            instance_type=answer.instance_type,
            promise=self._terms.promise,
            now=tx.now,
            valid_s=self._settings.quote_valid_s,
        )
        await records.save_quote(tx, message.port_id, quote)
        await tx.send(BROKER, QuoteOffered(port_id=message.port_id, quote=quote), cause=envelope)
        tx.after_commit(self._metrics.quotes_total.labels("offered").inc)

    async def _reserve(self, tx: Transaction, envelope: AnyEnvelope, message: ReservationRequested) -> None:
        known = await records.load(tx, message.port_id)
        if known is not None and known.phase in _SETTLED:
            if known.donor_xml_sha256 == message.identity.domain_xml_sha256 and known.tenant == message.tenant:
                await self._say_reserved(tx, envelope, known)
            else:
                await self._refuse(tx, envelope, message.port_id, (_already(known),))
            return
        result = await self._judge(tx, message)
        if not isinstance(result, Reservation):
            await self._refuse(tx, envelope, message.port_id, result)
            return
        await records.save(tx, result)
        await tx.arm(_timer(result.port_id), result.until)
        await self._say_reserved(tx, envelope, result)
        log.info("reserved", port=str(result.port_id), node=result.node, until=result.until.isoformat())

    async def _judge(self, tx: Transaction, message: ReservationRequested) -> Reservation | tuple[Refusal, ...]:
        """Quote, platform, room and XML once more; one judgement for all, so that every finding is named at once."""
        identity = message.identity
        refusals = _quote_refusals(await records.load_quote(tx, message.port_id), message.quote, tx)
        answer = assess(
            identity.vm,
            identity.versions,
            tenant=message.tenant,
            nodes=self._nodes,
            held=await self._held(tx, except_port=message.port_id),
            terms=self._terms,
            now=tx.now,
        )
        if not isinstance(answer, Suitable):
            return refusals + answer
        prepared = prepare(identity, port_id=message.port_id, places=self._terms.places_on(answer.node))
        if not isinstance(prepared, Prepared):
            return refusals + prepared
        if refusals:
            return refusals
        return Reservation(
            port_id=message.port_id,
            tenant=message.tenant,
            node=answer.node,
            lane=self._nodes.views[answer.node].lane,
            phase=Phase.HELD,
            until=tx.now + timedelta(seconds=self._settings.reservation_s),
            vm=identity.vm,
            donor_xml=identity.domain_xml,
            donor_xml_sha256=identity.domain_xml_sha256,
            domain_xml=prepared.domain_xml,
            disks=prepared.disks,
            quote=message.quote,
            updated_at=tx.now,
        )

    async def _held(self, tx: Transaction, *, except_port: UUID) -> list[Held]:
        """Reservations of others, and VMs that came by a port and are still on a node."""
        everyone = await records.in_phases(tx, _COUNTED)
        return [
            each.as_held()
            for each in everyone
            if each.port_id != except_port and (each.holds_capacity or self._nodes.serves(each.vm.uuid) is not None)
        ]

    async def _say_reserved(self, tx: Transaction, envelope: AnyEnvelope, reservation: Reservation) -> None:
        reserved = Reserved(
            port_id=reservation.port_id,
            node=reservation.node,
            lane=reservation.lane,
            domain_xml=reservation.domain_xml,
            disks=reservation.disks,
            reserved_until=reservation.until,
        )
        await tx.send(BROKER, reserved, cause=envelope)

    async def _refuse(
        self, tx: Transaction, envelope: AnyEnvelope, port_id: UUID, refusals: tuple[Refusal, ...]
    ) -> None:
        await tx.send(BROKER, ReservationRefused(port_id=port_id, refusals=refusals), cause=envelope)
        self._count(tx, refusals)
        log.info("reservation refused", port=str(port_id), codes=_codes(refusals))

    async def _release(self, tx: Transaction, port_id: UUID, reason: str) -> None:
        reservation = await records.load(tx, port_id)
        if reservation is None:
            return
        await records.save(tx, reservation.released(reason, tx.now))
        await tx.disarm(_timer(port_id))

    # ---- the port itself --------------------------------------------------------------------------------------------

    async def _fixed(self, tx: Transaction, message: PortingFixed) -> None:
        reservation = await records.load(tx, message.port_id)
        if reservation is None or reservation.phase is not Phase.HELD:
            phase = reservation.phase.value if reservation else "unknown"
            log.warning("a porting is fixed that is not held here", port=str(message.port_id), phase=phase)
            return
        refusals = agreement_refusals(reservation, message.agreement, provider=self._provider)
        if refusals:
            # Said where it can be answered: when the broker asks to open.
            log.warning("a porting is fixed otherwise than reserved", port=str(message.port_id), codes=_codes(refusals))
            return
        await self._hold(
            tx, reservation.fixed(message.agreement, tx.now, after_deadline_s=self._settings.after_deadline_s)
        )

    async def _hold(self, tx: Transaction, reservation: Reservation) -> None:
        await records.save(tx, reservation)
        await tx.arm(_timer(reservation.port_id), reservation.until)

    async def _open(self, tx: Transaction, envelope: AnyEnvelope, message: OpenInbound) -> None:
        reservation = await records.load(tx, message.port_id)
        refusals = self._open_refusals(reservation, message, tx)
        if reservation is None or refusals:
            failed = TransferFailed(
                port_id=message.port_id,
                side=Side.INBOUND,
                code=refusals[0].code,
                detail="; ".join(str(refusal) for refusal in refusals),
                guest_running=False,
            )
            await tx.send(BROKER, failed, cause=envelope)
            self._count(tx, refusals)
            log.warning("opening refused", port=str(message.port_id), codes=_codes(refusals))
            return
        reservation = reservation.fixed(message.agreement, tx.now, after_deadline_s=self._settings.after_deadline_s)
        await self._hold(tx, reservation.opened(tx.now))
        await tx.send(node(self._provider, reservation.node), message, cause=envelope, deadline=envelope.deadline)

    def _open_refusals(
        self, reservation: Reservation | None, message: OpenInbound, tx: Transaction
    ) -> tuple[Refusal, ...]:
        if reservation is None or reservation.phase not in {Phase.HELD, Phase.FIXED, Phase.OPEN}:
            return (_not_reserved(reservation),)
        refusals = agreement_refusals(reservation, message.agreement, provider=self._provider)
        if not self._is_heard(reservation.node, tx):
            silent = Refusal(
                code="node_unreachable",
                rule=f"The node must have been heard within {self._settings.node_silent_after_s:g} s.",
                evidence=f"node {reservation.node} is silent",
            )
            return (*refusals, silent)
        return refusals

    async def _abort(self, tx: Transaction, envelope: AnyEnvelope, message: AbortTransfer) -> None:
        reservation = await records.load(tx, message.port_id)
        if reservation is not None and reservation.phase in ON_NODE:
            await tx.send(node(self._provider, reservation.node), message, cause=envelope, deadline=envelope.deadline)
            return
        # No node was ever asked to open, so there is nothing of the VM here.
        aborted = TransferAborted(port_id=message.port_id, side=Side.INBOUND, guest_running=False)
        await tx.send(BROKER, aborted, cause=envelope)

    # ---- afterwards -------------------------------------------------------------------------------------------------

    async def _provision(self, tx: Transaction, envelope: AnyEnvelope, message: ProvisionVm) -> None:
        reservation = await records.load(tx, message.port_id)
        if reservation is None or reservation.phase not in ON_NODE:
            refusals: tuple[Refusal, ...] = (_not_reserved(reservation),)
        else:
            refusals = provision_refusals(reservation, message)
        if reservation is None or refusals:
            failed = CompletionFailed(
                port_id=message.port_id,
                side=Side.INBOUND,
                code=refusals[0].code,
                detail="; ".join(str(refusal) for refusal in refusals),
            )
            await tx.send(BROKER, failed, cause=envelope)
            self._count(tx, refusals)
            return
        await tx.send(node(self._provider, reservation.node), message, cause=envelope, deadline=envelope.deadline)

    async def _provisioned(
        self, tx: Transaction, envelope: AnyEnvelope, reservation: Reservation, message: VmProvisioned
    ) -> None:
        seen = self._nodes.serves(reservation.vm.uuid)
        differences = identity_differences(reservation, seen, message.identity_differences)
        await records.save(tx, reservation.provisioned(tx.now))
        await tx.disarm(_timer(reservation.port_id))
        said = VmProvisioned(port_id=reservation.port_id, identity_differences=differences)
        await tx.send(BROKER, said, cause=envelope)
        if differences:
            log.error("the VM that arrived differs", port=str(reservation.port_id), differences=differences)
        log.info("provisioned", port=str(reservation.port_id), node=reservation.node)

    # ---- time -------------------------------------------------------------------------------------------------------

    async def on_timer(self, timer: Timer) -> None:
        """A reservation's time is over, or a fixed one's deadline is long gone."""
        async with self._store.transaction() as tx:
            if not await tx.claim_timer(timer.key, timer.due_at):
                return
            reservation = await records.load(tx, UUID(timer.key.partition(":")[2]))
            if reservation is None:
                return
            known = self._nodes.busy_with(reservation.port_id) or self._nodes.serves(reservation.vm.uuid) is not None
            after_s = self._settings.after_deadline_s
            reservation = reservation.on_clock(tx.now, node_knows_it=known, after_deadline_s=after_s)
            await records.save(tx, reservation)
            if reservation.holds_capacity:
                await tx.arm(timer.key, reservation.until)
            else:
                log.info("reservation expired", port=str(reservation.port_id), phase=reservation.phase.value)
        await self._show_figures()

    # ---- nodes ------------------------------------------------------------------------------------------------------

    async def _heard(self, envelope: AnyEnvelope, heartbeat: NodeHeartbeat) -> None:
        if envelope.expired(self._store.clock()):
            return
        name = envelope.sender.node
        self._nodes = self._nodes.heard(name, heartbeat, self._store.clock())
        kept = self._kept.get(name)
        if kept is None or _lasting(kept) != _lasting(heartbeat):
            async with self._store.transaction() as tx:
                await records.save_node(tx, name, heartbeat)
            self._kept[name] = heartbeat
            await self.report(only_changes=True)

    def _is_heard(self, name: str, tx: Transaction) -> bool:
        view = self._nodes.views.get(name)
        if view is None:
            return False
        return (tx.now - view.heard_at).total_seconds() <= self._settings.node_silent_after_s

    async def run_reports(self) -> None:
        """Report capacity at intervals, and clean up now and then. Until cancelled."""
        while True:
            await self.report(only_changes=False)
            await self._clean()
            await self._show_figures()
            await asyncio.sleep(self._settings.report_every_s)

    async def report(self, *, only_changes: bool) -> None:
        """Tell the broker what this provider can take; ``only_changes``: only if nodes came or went."""
        async with self._store.transaction() as tx:
            held = await self._held(tx, except_port=UUID(int=0))
            rooms = [
                room_on(view, held, self._terms.overcommit)
                for view in self._nodes.in_order()
                if not view.problems and self._is_heard(view.name, tx)
            ]
            counts = (len(rooms), len(self._nodes.views))
            if not self._nodes.views or (only_changes and counts == self._reported):
                return
            report = CapacityReported(
                at=tx.now,
                nodes_healthy=counts[0],
                nodes=counts[1],
                memory_free_bytes=sum(max(room.memory_bytes, 0) for room in rooms),
                disk_free_bytes=sum(max(room.disk_bytes, 0) for room in rooms),
            )
            await tx.send(BROKER, report)
        self._reported = counts

    async def _clean(self) -> None:
        now = self._store.clock()
        if now - self._cleaned_at < HOUSEKEEPING_EVERY:
            return
        self._cleaned_at = now
        async with self._store.transaction() as tx:
            ended_before = now - timedelta(days=self._settings.keep_records_days)
            await records.forget(tx, ended_before=ended_before, quotes_before=now - KEEP_QUOTES)

    # ---- figures ----------------------------------------------------------------------------------------------------

    def _count(self, tx: Transaction, refusals: tuple[Refusal, ...]) -> None:
        for code in _codes(refusals):
            tx.after_commit(self._metrics.refusals_total.labels(code).inc)

    async def _show_figures(self) -> None:
        holding, active = await records.figures(self._store)
        self._metrics.reservations_active.set(holding)
        self._metrics.ports_active.set(active)
        now = self._store.clock()
        silent = sum(
            (now - view.heard_at).total_seconds() > self._settings.node_silent_after_s
            for view in self._nodes.views.values()
        )
        self._metrics.nodes.labels("silent").set(silent)
        self._metrics.nodes.labels("heard").set(len(self._nodes.views) - silent)


def _timer(port_id: UUID) -> str:
    return f"reservation:{port_id}"


def _codes(refusals: tuple[Refusal, ...]) -> list[str]:
    return [refusal.code for refusal in refusals]


def _lasting(heartbeat: NodeHeartbeat) -> tuple[object, ...]:
    """What of a heartbeat is worth keeping; free memory and disk change all the time."""
    return heartbeat.platform, heartbeat.lane, heartbeat.vms, heartbeat.healthy, heartbeat.problems


def _quote_refusals(offered: Quote | None, taken: Quote, tx: Transaction) -> tuple[Refusal, ...]:
    rule = "A reservation takes up a quote that this provider made and that is still valid."
    if offered is None:
        return (Refusal(code="quote_unknown", rule=rule, evidence="this provider made no quote for the port"),)
    if offered != taken:
        return (Refusal(code="quote_differs", rule=rule, evidence=f"offered {offered}, taken {taken}"),)
    if tx.now > offered.valid_until:
        evidence = f"it was valid until {offered.valid_until.isoformat()}"
        return (Refusal(code="quote_expired", rule=rule, evidence=evidence),)
    return ()


def _already(reservation: Reservation) -> Refusal:
    return Refusal(
        code="port_under_way",
        rule="A fixed reservation is not changed.",
        evidence=f"the port is {reservation.phase.value} here, for another tenant or with another XML",
    )


def _not_reserved(reservation: Reservation | None) -> Refusal:
    phase = "it was never reserved" if reservation is None else f"it is {reservation.phase.value}"
    if reservation is not None and reservation.reason:
        phase += f" ({reservation.reason})"
    return Refusal(code="not_reserved", rule="A recipient takes only what it reserved.", evidence=phase)
