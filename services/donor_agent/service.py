"""The donor agent's shell: messages and timers in, one transaction each, messages out. Judges nothing itself.

Whom it believes, beyond the bus's proof of sender: the broker about ports; a node only about a port that this agent
approved and that this node holds. What a node says about any other port is dead-lettered. The broker is always
answered, since it waits: with a refusal where it asks for something that was not approved.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from hashlib import sha256
from uuid import UUID

import structlog

from services.donor_agent import records
from services.donor_agent.approval import (
    Approved,
    Request,
    agreement_refusals,
    live_refusals,
    records_refusals,
)
from services.donor_agent.inventory import Inventory, NodeView
from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy import Policy
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.port_record import GONE, DonorPort, Phase
from services.donor_agent.settings import DonorSection
from shared.bus import Reject
from shared.messages import AnyEnvelope, PortMessage, Refusal, open_envelope
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.nodes import (
    DescribeFailed,
    DescribeVm,
    EraseQuarantine,
    ExpectOutbound,
    InventoryReported,
    NodeHeartbeat,
    OwnedVm,
    VmDescribed,
)
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    OutboundFinished,
    OutboundStarted,
    PortingFixed,
    ServiceChangeAgreement,
    Side,
    StartOutbound,
    TransferAborted,
    TransferFailed,
    VmDisconnected,
)
from shared.messages.service_change import PortCancelled, PortCompleted, PortFailed
from shared.messages.vm import VmState
from shared.parties import BROKER, Role, node
from shared.store import Store, Timer, Transaction

log = structlog.stdlib.get_logger(__name__)

HOUSEKEEPING_EVERY = timedelta(hours=1)

_MAY_DISCONNECT = frozenset({Phase.MOVING, Phase.LEFT, Phase.DISCONNECTING, Phase.QUARANTINED, Phase.ERASED})
"""MOVING too: the broker's ledger decides that a VM has left, even if the node's own news of it was lost."""

_MAY_END = frozenset({Phase.DESCRIBING, Phase.APPROVED, Phase.FIXED, Phase.MOVING, Phase.LEFT})


class DonorService:
    """One provider's donor agent. ``handle`` is for the bus, ``on_timer`` for the timer runner, ``report`` a task."""

    def __init__(
        self,
        store: Store,
        policy: PolicyFile,
        settings: DonorSection,
        metrics: DonorMetrics,
    ) -> None:
        self._store = store
        self._policy = policy
        self._settings = settings
        self._metrics = metrics
        self._provider = store.party.owner
        self._inventory = Inventory()
        self._reported: tuple[OwnedVm, ...] | None = None
        self._kept: dict[str, NodeView] = {}
        self._look = asyncio.Event()
        self._cleaned_at = store.clock()

    async def start(self) -> None:
        """Make the tables and recall what the nodes run."""
        await self._store.create_schema(records.metadata)
        self._kept = await records.load_nodes(self._store, self._store.clock())
        self._inventory = Inventory(dict(self._kept))
        await self._show_figures()

    def _policy_in_force(self) -> Policy:
        """Look at the file first: a legal hold that was written a moment ago must hold."""
        if self._policy.refresh():
            self.policy_changed()
        return self._policy.policy

    def policy_changed(self) -> None:
        """Another policy came into force: owners may have changed."""
        self._look.set()

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
            case ApprovalRequested() as message:
                await self._asked(tx, envelope, message)
            case PortingFixed() as message:
                await self._fixed(tx, envelope, message)
            case StartOutbound() as message:
                await self._start(tx, envelope, message)
            case AbortTransfer() as message:
                await self._abort(tx, envelope, message)
            case DisconnectVm() as message:
                await self._disconnect(tx, envelope, message)
            case PortFailed(port_id=port_id, vm_runs_at=provider) if provider != self._provider:
                log.error("a port failed after its VM had left", port=str(port_id), vm_runs_at=provider)
            case PortFailed(port_id=port_id) | PortCancelled(port_id=port_id):
                await self._ended(tx, port_id)
            case PortCompleted(port_id=port_id):
                log.info("port completed", port=str(port_id))
            case PortMessage() as message if envelope.sender.role is Role.NODE:
                await self._from_node(tx, envelope, message)
            case message:
                raise Reject("not_for_me", f"a donor agent has no use for {type(message).__name__}")

    async def _from_node(self, tx: Transaction, envelope: AnyEnvelope, message: PortMessage) -> None:
        port = await self._port_of_node(tx, envelope, message.port_id)
        match message:
            case VmDescribed() as described:
                await self._described(tx, envelope, port, described)
            case DescribeFailed(code=code, detail=detail):
                found = Refusal(code=code, rule="The VM's node must be able to read the live VM.", evidence=detail)
                if port.phase is Phase.DESCRIBING:
                    await self._reject(tx, port, (found,), cause=envelope)
            case OutboundStarted() | TransferFailed() | TransferAborted() | CompletionFailed() as news:
                await tx.send(BROKER, news, cause=envelope)
            case OutboundFinished() as finished:
                if port.phase is Phase.MOVING:
                    await records.save_port(tx, port.in_phase(Phase.LEFT, tx.now))
                await tx.send(BROKER, finished, cause=envelope)
            case VmDisconnected() as disconnected:
                await self._disconnected(tx, envelope, port, disconnected)
            case DisksErased() as erased:
                await self._erased(tx, envelope, port, erased)
            case _:
                raise Reject("not_for_me", f"a donor agent has no use for {type(message).__name__}")

    async def _port_of_node(self, tx: Transaction, envelope: AnyEnvelope, port_id: UUID) -> DonorPort:
        port = await records.load_port(tx, port_id)
        if port is None:
            raise Reject("unknown_port", f"{envelope.source} speaks of port {port_id}, which was never asked for here")
        if envelope.sender.node != port.node:
            raise Reject("wrong_node", f"{envelope.source} speaks of port {port_id}, which node {port.node} holds")
        return port

    # ---- approval ---------------------------------------------------------------------------------------------------

    async def _asked(self, tx: Transaction, envelope: AnyEnvelope, message: ApprovalRequested) -> None:
        known = await records.load_port(tx, message.port_id)
        if known is not None and known.phase not in {Phase.DESCRIBING, Phase.APPROVED, Phase.REJECTED}:
            raise Reject("port_under_way", f"port {message.port_id} is {known.phase.value}: it was approved long ago")
        request = await self._request(
            tx, message.port_id, tenant=message.tenant, vm_uuid=message.vm_uuid, recipient=message.recipient
        )
        port = DonorPort(
            port_id=message.port_id,
            tenant=message.tenant,
            vm_uuid=message.vm_uuid,
            node=request.located.node if request.located else "",
            phase=Phase.DESCRIBING,
            updated_at=tx.now,
        )
        refusals = records_refusals(self._policy_in_force(), request)
        if refusals:
            await self._reject(tx, port, refusals, cause=envelope)
            return
        await records.save_port(tx, port)
        within = timedelta(seconds=self._settings.describe_within_s)
        await tx.arm(_timer("describe", port.port_id), tx.now + within, {"cause": envelope.to_json().decode()})
        describe = DescribeVm(port_id=port.port_id, vm_uuid=port.vm_uuid)
        await tx.send(node(self._provider, port.node), describe, cause=envelope, deadline=tx.now + within)

    async def _request(
        self, tx: Transaction, port_id: UUID, *, tenant: str, vm_uuid: UUID, recipient: str | None
    ) -> Request:
        count, busy = await records.under_way(tx, except_port=port_id)
        return Request(
            tenant=tenant,
            vm_uuid=vm_uuid,
            now=tx.now,
            located=self._inventory.locate(vm_uuid, tx.now),
            node_silent_after_s=self._settings.node_silent_after_s,
            recipient=recipient,
            ports_under_way=count,
            vm_under_way=busy.get(vm_uuid),
        )

    async def _described(self, tx: Transaction, envelope: AnyEnvelope, port: DonorPort, message: VmDescribed) -> None:
        if port.phase is not Phase.DESCRIBING:
            log.info("late description ignored", port=str(port.port_id), phase=port.phase.value)
            return
        identity = message.identity
        digest = sha256(identity.domain_xml.encode()).hexdigest()
        if identity.node != port.node or digest != identity.domain_xml_sha256:
            raise Reject("invalid_identity", f"the bundle's node or SHA-256 is not that of {envelope.source}'s XML")
        refusals = live_refusals(identity.vm, vm_uuid=port.vm_uuid)
        if refusals:
            await self._reject(tx, port, refusals, cause=envelope)
            return
        await tx.disarm(_timer("describe", port.port_id))
        await records.save_port(tx, port.in_phase(Phase.APPROVED, tx.now, identity=identity))
        approved = DonorApproved(port_id=port.port_id, identity=identity, partners=self._policy.policy.partners)
        await tx.send(BROKER, approved, cause=envelope)
        log.info("port approved", port=str(port.port_id), node=port.node)

    async def _reject(
        self, tx: Transaction, port: DonorPort, refusals: tuple[Refusal, ...], *, cause: AnyEnvelope
    ) -> None:
        await tx.disarm(_timer("describe", port.port_id))
        await records.save_port(tx, port.in_phase(Phase.REJECTED, tx.now))
        await tx.send(BROKER, DonorRejected(port_id=port.port_id, refusals=refusals), cause=cause)
        self._count(tx, refusals)
        log.info("port refused", port=str(port.port_id), codes=[refusal.code for refusal in refusals])

    # ---- the port itself --------------------------------------------------------------------------------------------

    async def _fixed(self, tx: Transaction, envelope: AnyEnvelope, message: PortingFixed) -> None:
        agreement = message.agreement
        port = await records.load_port(tx, message.port_id)
        if port is None or port.phase is not Phase.APPROVED:
            log.warning("a porting is fixed that was not approved here", port=str(message.port_id))
            return
        refusals = self._agreement_refusals(port, agreement)
        if refusals:
            # Said where it can be answered: when the broker asks to start.
            log.warning("a porting is fixed otherwise than approved", port=str(port.port_id), codes=_codes(refusals))
            return
        await records.save_port(tx, port.in_phase(Phase.FIXED, tx.now, agreement=agreement))
        if agreement.window_start <= tx.now:
            # Until the recipient is ready the node has as long as it takes to read a disk.
            expect = ExpectOutbound(port_id=port.port_id, vm_uuid=port.vm_uuid)
            within = timedelta(seconds=self._settings.describe_within_s)
            await tx.send(node(self._provider, port.node), expect, cause=envelope, deadline=tx.now + within)

    async def _start(self, tx: Transaction, envelope: AnyEnvelope, message: StartOutbound) -> None:
        port = await records.load_port(tx, message.port_id)
        if port is None or port.phase not in {Phase.APPROVED, Phase.FIXED, Phase.MOVING}:
            await self._refuse_start(tx, envelope, message, (_not_approved(port),))
            return
        refusals = self._agreement_refusals(port, message.agreement)
        if port.phase is not Phase.MOVING:
            refusals += await self._refusals_today(tx, port, message.agreement)
        if refusals:
            await self._refuse_start(tx, envelope, message, refusals)
            return
        await records.save_port(tx, port.in_phase(Phase.MOVING, tx.now, agreement=message.agreement))
        await tx.send(node(self._provider, port.node), message, cause=envelope, deadline=envelope.deadline)

    async def _refusals_today(
        self, tx: Transaction, port: DonorPort, agreement: ServiceChangeAgreement
    ) -> tuple[Refusal, ...]:
        """The records once more: between approval and window, days may have passed."""
        request = await self._request(
            tx, port.port_id, tenant=port.tenant, vm_uuid=port.vm_uuid, recipient=agreement.recipient
        )
        refusals = records_refusals(self._policy_in_force(), request)
        if not refusals and request.located is not None and request.located.node != port.node:
            moved = Refusal(
                code="vm_moved",
                rule="The VM leaves from the node that was agreed on.",
                evidence=f"agreed on {port.node}; it is on {request.located.node} now",
            )
            return (moved,)
        return refusals

    async def _refuse_start(
        self, tx: Transaction, envelope: AnyEnvelope, message: StartOutbound, refusals: tuple[Refusal, ...]
    ) -> None:
        failed = TransferFailed(
            port_id=message.port_id,
            side=Side.OUTBOUND,
            code=refusals[0].code,
            detail="; ".join(str(refusal) for refusal in refusals),
            guest_running=self._runs(message.agreement.vm_uuid, tx),
        )
        await tx.send(BROKER, failed, cause=envelope)
        self._count(tx, refusals)
        log.warning("start refused", port=str(message.port_id), codes=_codes(refusals))

    def _agreement_refusals(self, port: DonorPort, agreement: ServiceChangeAgreement) -> tuple[Refusal, ...]:
        if port.identity is None:
            return (_not_approved(port),)
        approved = Approved(port.port_id, port.tenant, port.vm_uuid, self._provider, port.identity)
        return agreement_refusals(approved, agreement)

    async def _abort(self, tx: Transaction, envelope: AnyEnvelope, message: AbortTransfer) -> None:
        port = await records.load_port(tx, message.port_id)
        if port is not None and port.phase in {Phase.MOVING, Phase.LEFT, Phase.DISCONNECTING}:
            await tx.send(node(self._provider, port.node), message, cause=envelope, deadline=envelope.deadline)
            return
        # No node was ever asked to start, so there is nothing to stop and the guest was never touched.
        running = self._runs(port.vm_uuid, tx) if port is not None else True
        aborted = TransferAborted(port_id=message.port_id, side=Side.OUTBOUND, guest_running=running)
        await tx.send(BROKER, aborted, cause=envelope)

    async def _ended(self, tx: Transaction, port_id: UUID) -> None:
        port = await records.load_port(tx, port_id)
        if port is not None and port.phase in _MAY_END:
            await tx.disarm(_timer("describe", port_id))
            await records.save_port(tx, port.in_phase(Phase.ENDED, tx.now))

    # ---- afterwards -------------------------------------------------------------------------------------------------

    async def _disconnect(self, tx: Transaction, envelope: AnyEnvelope, message: DisconnectVm) -> None:
        port = await records.load_port(tx, message.port_id)
        if port is None or port.vm_uuid != message.vm_uuid or port.phase not in _MAY_DISCONNECT:
            refusal = _not_approved(port)
            failed = CompletionFailed(
                port_id=message.port_id, side=Side.OUTBOUND, code=refusal.code, detail=str(refusal)
            )
            await tx.send(BROKER, failed, cause=envelope)
            self._count(tx, (refusal,))
            return
        if port.phase in {Phase.QUARANTINED, Phase.ERASED}:
            await self._say_disconnected(tx, envelope, port)
            return
        await records.save_port(tx, port.in_phase(Phase.DISCONNECTING, tx.now))
        await tx.send(node(self._provider, port.node), message, cause=envelope, deadline=envelope.deadline)

    async def _disconnected(
        self, tx: Transaction, envelope: AnyEnvelope, port: DonorPort, message: VmDisconnected
    ) -> None:
        if port.phase not in _MAY_DISCONNECT:
            raise Reject("not_asked", f"nobody asked {envelope.source} to disconnect the VM of port {port.port_id}")
        if port.phase not in {Phase.QUARANTINED, Phase.ERASED}:
            port = port.disconnected(message.quarantined_disks, tx.now, self._settings.quarantine)
            await records.save_port(tx, port)
            await tx.arm(_timer("erase", port.port_id), port.quarantine_until or tx.now)
            self._inventory = self._inventory.forget(port.node, port.vm_uuid)
        await self._say_disconnected(tx, envelope, port)

    async def _say_disconnected(self, tx: Transaction, envelope: AnyEnvelope, port: DonorPort) -> None:
        said = VmDisconnected(
            port_id=port.port_id, quarantined_disks=port.quarantined_disks, quarantine_until=port.quarantine_until
        )
        await tx.send(BROKER, said, cause=envelope)

    async def _erased(self, tx: Transaction, envelope: AnyEnvelope, port: DonorPort, message: DisksErased) -> None:
        if port.phase is not Phase.QUARANTINED:
            return
        await tx.disarm(_timer("erase", port.port_id))
        await records.save_port(tx, port.erased(tx.now))
        await tx.send(BROKER, message, cause=envelope)
        log.info("quarantine erased", port=str(port.port_id), bytes=message.erased_bytes)

    # ---- time -------------------------------------------------------------------------------------------------------

    async def on_timer(self, timer: Timer) -> None:
        """A stored deadline has passed."""
        what, _, port_id = timer.key.partition(":")
        async with self._store.transaction() as tx:
            if not await tx.claim_timer(timer.key, timer.due_at):
                return
            port = await records.load_port(tx, UUID(port_id))
            if port is None:
                return
            match what:
                case "describe" if port.phase is Phase.DESCRIBING:
                    await self._describe_overdue(tx, port, str(timer.payload["cause"]))
                case "erase" if port.phase is Phase.QUARANTINED:
                    # Asked again until the node says that it is done.
                    again = tx.now + timedelta(seconds=self._settings.erase_again_s)
                    erase = EraseQuarantine(port_id=port.port_id)
                    await tx.send(node(self._provider, port.node), erase, deadline=again)
                    await tx.arm(timer.key, again)
                case _:
                    return
        await self._show_figures()

    async def _describe_overdue(self, tx: Transaction, port: DonorPort, cause: str) -> None:
        silent = Refusal(
            code="node_unreachable",
            rule=f"The VM's node must describe the VM within {self._settings.describe_within_s:g} s.",
            evidence=f"node {port.node} did not answer in time",
        )
        await self._reject(tx, port, (silent,), cause=open_envelope(cause.encode()))

    # ---- inventory --------------------------------------------------------------------------------------------------

    async def _heard(self, envelope: AnyEnvelope, heartbeat: NodeHeartbeat) -> None:
        if envelope.expired(self._store.clock()):
            return
        name = envelope.sender.node
        self._inventory = self._inventory.heard(name, heartbeat, self._store.clock())
        view = self._inventory.nodes[name]
        kept = self._kept.get(name)
        if kept is None or kept.vms != view.vms:
            async with self._store.transaction() as tx:
                await records.save_node(tx, name, view)
            self._kept[name] = view
            # What a node runs has changed: the broker hears of it now.
            await self.report(only_changes=True)

    async def run_reports(self) -> None:
        """Report the inventory at intervals, and when the policy changed; clean up now and then. Until cancelled."""
        while True:
            await self.report(only_changes=self._look.is_set())
            self._look.clear()
            await self._clean()
            await self._show_figures()
            try:
                async with asyncio.timeout(self._settings.report_every_s):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def report(self, *, only_changes: bool) -> None:
        """Tell the broker what this provider serves: neither what has left, nor what has not arrived yet."""
        before = frozenset(vm.vm.uuid for vm in self._reported or ())
        async with self._store.transaction() as tx:
            elsewhere = await records.vms_in(tx, GONE)
            elsewhere |= self._inventory.arriving(await records.outbound_ports(tx), before)
            owned = self._inventory.owned(self._policy.policy)
            served = tuple(vm for vm in owned if vm.vm.uuid not in elsewhere)
            if not self._inventory.nodes or (only_changes and served == self._reported):
                return
            await tx.send(BROKER, InventoryReported(at=tx.now, vms=served))
        self._reported = served

    async def _clean(self) -> None:
        now = self._store.clock()
        if now - self._cleaned_at < HOUSEKEEPING_EVERY:
            return
        self._cleaned_at = now
        async with self._store.transaction() as tx:
            await records.forget_ended(tx, now - timedelta(days=self._settings.keep_records_days))

    # ---- figures ----------------------------------------------------------------------------------------------------

    def _runs(self, vm_uuid: UUID, tx: Transaction) -> bool:
        located = self._inventory.locate(vm_uuid, tx.now)
        return located is not None and located.vm.state is VmState.RUNNING

    def _count(self, tx: Transaction, refusals: tuple[Refusal, ...]) -> None:
        for code in _codes(refusals):
            tx.after_commit(self._metrics.refusals_total.labels(code).inc)

    async def _show_figures(self) -> None:
        active, quarantined_bytes = await records.figures(self._store)
        self._metrics.ports_active.set(active)
        self._metrics.quarantined_bytes.set(quarantined_bytes)
        now = self._store.clock()
        silent = sum(
            (now - view.heard_at).total_seconds() > self._settings.node_silent_after_s
            for view in self._inventory.nodes.values()
        )
        self._metrics.nodes.labels("silent").set(silent)
        self._metrics.nodes.labels("heard").set(len(self._inventory.nodes) - silent)


def _timer(what: str, port_id: UUID) -> str:
    return f"{what}:{port_id}"


def _codes(refusals: tuple[Refusal, ...]) -> list[str]:
    return [refusal.code for refusal in refusals]


def _not_approved(port: DonorPort | None) -> Refusal:
    return Refusal(
        code="not_approved",
        rule="The donor carries out only what it approved.",
        evidence="this port was never asked for here" if port is None else f"the port is {port.phase.value} here",
    )
