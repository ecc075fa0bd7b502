"""The transfers of this node: started, aborted, recovered, ended. A transfer is this node's side of one port; each has
a task of its own.

The journal is written before a command is acknowledged, and a transfer's last message before it is sent. So a crash
anywhere loses neither, and what is sent twice says the same thing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, LiveVm
from services.node_agent.lanes.core.seal import SealError
from services.node_agent.lanes.keys import LaneKeys
from services.node_agent.messenger import Messenger
from services.node_agent.metrics import Direction, NodeMetrics
from services.node_agent.settings import NodeSection
from services.node_agent.state.journal import Journal, Phase, PortRecord, TransferJournal
from services.node_agent.transfers.active import ActiveTransfer
from services.node_agent.transfers.cleanup import remove_created
from services.node_agent.transfers.ended_transfers import EndedTransfers
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.factory import TransferFactory
from services.node_agent.transfers.housekeeping import Housekeeping
from services.node_agent.transfers.lane_metrics import LaneMetrics
from services.node_agent.transfers.port_contents import PortContents
from services.node_agent.transfers.port_lanes import PortRoutes
from services.node_agent.transfers.port_network import JoinedNetworks, PortNetwork
from services.node_agent.transfers.recovery import Recovery
from services.node_agent.transfers.reporting import OutboundReports, TransferReports, failure_message
from services.node_agent.transfers.stray_guests import StrayGuests
from shared.domain import DomainXmlError
from shared.logs import get_logger, port_bound
from shared.messages.base import PortMessage
from shared.messages.nodes import ExpectOutbound
from shared.messages.porting import (
    AbortTransfer,
    InboundFinished,
    ServiceChangeAgreement,
    Side,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
    TransferFailed,
)
from shared.messages.switchover import QueryCopy
from shared.tasks import Tasks

log = get_logger(__name__)

STORE_AGAIN_S = 1.0
"""How long to wait before an end that could not be stored (a full disk) is stored again."""
RECOVER_AGAIN_S = 1.0
"""How long to wait before a transfer that broke in its switchover is recovered."""
FAILED_FLUSH_S = 1.0
"""How long a failed transfer tries to send its error to the other side."""

_BEFORE_FINISH = {Phase.PREPARING, Phase.OPEN, Phase.TRANSFERRING, Phase.SWITCHOVER_ASKED}
_DIRECTIONS = {Side.OUTBOUND: Direction.OUTBOUND, Side.INBOUND: Direction.INBOUND}


Perform = Callable[[ActiveTransfer], Coroutine[Any, Any, PortMessage]]


class Transfers:
    """All transfers of this node."""

    def __init__(
        self,
        settings: NodeSection,
        *,
        hypervisor: Hypervisor,
        journal: Journal,
        messenger: Messenger,
        routes: PortRoutes,
        keys: LaneKeys,
        metrics: NodeMetrics,
        network: PortNetwork | None = None,
    ) -> None:
        self._hypervisor = hypervisor
        self._journal = journal
        self._routes = routes
        self._metrics = metrics
        self._contents = PortContents(settings, quarantined=journal.quarantined_disks)
        self._factory = TransferFactory(
            settings, hypervisor=hypervisor, routes=routes, keys=keys, contents=self._contents, network=network
        )
        self._network = network or JoinedNetworks()
        self._reports = TransferReports(messenger, metrics)
        self._tasks = Tasks("ports")
        self._active: dict[UUID, ActiveTransfer] = {}
        self._strays = StrayGuests(
            hypervisor, self._reports, journal.given_away, provider=messenger.provider, tasks=self._tasks
        )
        self._ended = EndedTransfers(journal, hypervisor, self._reports, self._strays)
        self._housekeeping = Housekeeping(self._contents, self._ended, active=lambda: self._active, tasks=self._tasks)

    def ports(self) -> tuple[UUID, ...]:
        """Ports that have an active transfer here."""
        return tuple(self._active)

    def problems(self) -> tuple[str, ...]:
        """What an operator should know: switchovers whose outcome is not known, guests that nobody explains."""
        return (*self._reports.problems(), *self._strays.problems())

    def active(self, port_id: UUID) -> ActiveTransfer | None:
        """The active transfer of this port here."""
        return self._active.get(port_id)

    def described(self, vm: LiveVm) -> None:
        """It was asked whether this VM may leave: a port may follow, so its base images are read now."""
        self._tasks.spawn(self._contents.read_ahead(vm), name=f"read ahead for {vm.description.name}")

    # ---- commands ----

    def expect(self, command: ExpectOutbound) -> None:
        """The outbound transfer of this port begins in a moment: read its disks now."""
        if command.port_id not in self._active:
            self._tasks.spawn(self._scan_ahead(command), name=f"expect {command.port_id}")

    async def _scan_ahead(self, command: ExpectOutbound) -> None:
        with port_bound(command.port_id):
            try:
                vm = await self._hypervisor.describe(command.vm_uuid)
            except (HypervisorError, DomainXmlError, DiskImageError) as error:
                log.info("disk scan skipped", vm=str(command.vm_uuid), error=str(error))
                return
            await self._contents.scan_ahead(command.port_id, [Path(file) for file in vm.files])

    def start(self, side: Side, agreement: ServiceChangeAgreement) -> None:
        """Begin a transfer, or repeat what became of it. Raises OSError where the journal cannot be written."""
        active = self._active.get(agreement.port_id)
        if active is not None:
            self._repeat(active, side)
            return
        record = self._journal.get(agreement.port_id, side)
        if record is not None and self._reports.final_again(record):
            return
        if damaged := self._journal.damaged(agreement.port_id, side):
            log.error("transfer not begun again: its record is damaged", file=damaged[0].name)
            return
        record = PortRecord(side=side, agreement=agreement, was_running=False)
        self._journal.store(record)
        perform = self._outbound if side is Side.OUTBOUND else self._inbound
        active = self._begin(record)
        self._tasks.spawn(self._carry_out(active, perform), name=f"{side} {agreement.port_id}")

    def _repeat(self, active: ActiveTransfer, side: Side) -> None:
        port_id = active.journal.record.port_id
        if side is Side.INBOUND and active.opened:
            self._reports.opened(port_id)
        if side is Side.OUTBOUND and active.reporter.has_started:
            self._reports.started(port_id)

    def abort(self, command: AbortTransfer) -> None:
        """Stop a transfer and answer when it is cleaned up; answers also where there is no active one."""
        active = self._active.get(command.port_id)
        record = active.journal.record if active is not None else self._journal.get(command.port_id, command.side)
        if record is not None and record.is_outdated(command.epoch):
            log.error("abort not believed: its ledger is older", epoch=command.epoch, known=record.heard_epoch)
            return
        if active is not None:
            active.abort()
        self._tasks.spawn(self._confirm_abort(command, active), name=f"abort {command.port_id}")

    async def _confirm_abort(self, command: AbortTransfer, active: ActiveTransfer | None) -> None:
        if active is not None:
            await active.over.wait()
        # The VM stays the donor's: only then is a transfer aborted.
        await self._network.undo(command.port_id, command.side)
        await self._ended.confirm_abort(command)

    def copy_asked(self, question: QueryCopy) -> None:
        """The broker asks whether the guest was let go here."""
        if (active := self._active.get(question.port_id)) is not None and active.copy_asked is not None:
            active.copy_asked()
        else:
            self._tasks.spawn(self._ended.answer_copy(question), name=f"copy of {question.port_id}")

    def answered(
        self,
        answer: SwitchoverGranted | SwitchoverDenied | SwitchoverState,
        *,
        question: UUID | None,
        sent_at: datetime,
    ) -> None:
        """The broker's answer about a switchover, to the question of this id, sent at this time.

        A grant without an active transfer asks whether the guest runs here.
        """
        active = self._active.get(answer.port_id)
        if active is not None:
            active.broker.deliver(answer, question=question, sent_at=sent_at)
        elif isinstance(answer, SwitchoverGranted):
            self._tasks.spawn(self._ended.answer_grant(answer.port_id), name=f"resolve {answer.port_id}")
        elif not (isinstance(answer, SwitchoverState) and self._ended.deliver(answer.port_id, answer)):
            log.info("reply for an unknown transfer", port_id=str(answer.port_id))

    def provisioned(self, port_id: UUID) -> None:
        """The arrived VM belongs to this provider for good: its journal record is not needed any more."""
        active = self._active.get(port_id)
        if active is not None:
            active.provisioned = True
        else:
            self._journal.remove(port_id, Side.INBOUND)

    def recover(self) -> tuple[str, ...]:
        """Bring what the former process left to an end; returns names of damaged journal files."""
        self._journal.given_away.dismiss_all()
        records, damaged = self._journal.load()
        for record in records:
            # KEPT is stored before the word that follows from it; the other ends are stored with theirs.
            untold = record.phase is Phase.KEPT and record.last_word is None
            if record.phase in {Phase.DONE, Phase.FAILED, Phase.KEPT} and not untold:
                self._reports.final(TransferJournal(self._journal, record))
            elif record.phase is not Phase.QUARANTINED:
                active = self._begin(record)
                self._tasks.spawn(self._carry_out(active, self._recover), name=f"recover {record.port_id}")
            if record.phase in {Phase.DONE, Phase.QUARANTINED, Phase.FAILED}:
                self._network.ended(record.side, record.agreement, moved=record.phase is not Phase.FAILED)
        explained = tuple(active.journal.record.agreement.vm_uuid for active in self._active.values())
        self._tasks.spawn(self._strays.find(explained, self._journal.damaged()), name="find stray guests")
        self._housekeeping.start()
        return tuple(damaged)

    async def stop(self, within_s: float) -> None:
        """Give active transfers `within_s` seconds to end in order, then leave; the next process recovers the rest."""
        for active in self._active.values():
            if active.stop is not None:
                active.stop()
        waiting = [self._tasks.spawn(active.over.wait(), name="wait") for active in self._active.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=within_s)
        await self._tasks.close()
        self._contents.close()

    # ---- a transfer's life ----

    def _begin(self, record: PortRecord) -> ActiveTransfer:
        broker, reports = self._reports.broker_client(record.port_id), OutboundReports(self._reports, record.port_id)
        active = ActiveTransfer(TransferJournal(self._journal, record), broker, reports)
        self._active[record.port_id] = active
        self._metrics.transfers_active.labels(_DIRECTIONS[record.side]).inc()
        return active

    async def _carry_out(self, active: ActiveTransfer, perform: Perform) -> None:
        record = active.journal.record
        direction = _DIRECTIONS[record.side]
        with port_bound(record.port_id):
            try:
                message = await self._perform_to_the_end(active, perform)
                error = message if isinstance(message, TransferFailed) else None
                # An abort has an answer of its own, which replaces the failure that it caused.
                await self._conclude(active, message, tell=error is None or not active.aborting)
                self._metrics.transfers_total.labels(direction, "finished" if error is None else "failed").inc()
                _log_end(record.side, error)
            finally:
                self._metrics.transfers_active.labels(direction).dec()
                self._reports.ended(record.port_id)
                del self._active[record.port_id]
                self._routes.forget(record.port_id)
                active.over.set()
                self._housekeeping.sweep()
                if active.provisioned:
                    self._journal.remove(record.port_id, record.side)

    async def _perform_to_the_end(self, active: ActiveTransfer, perform: Perform) -> PortMessage:
        record = active.journal.record
        while True:
            try:
                return await perform(active)
            except TransferError as error:
                failure = error
            except SealError as error:
                log.warning("lanes cannot be secured", error=str(error))
                failure = await self._failure(active, error.code, str(error))
            except Exception as error:  # whatever broke, the broker must hear it and what was created must be removed
                log.exception("transfer broke; this is a defect")
                if active.arrived:
                    # The guest runs here and the ledger says so: nothing of it is undone, whatever else failed.
                    return InboundFinished(port_id=record.port_id, epoch=record.agreement.epoch)
                if active.journal.record.phase not in _BEFORE_FINISH:
                    # The guest may be at either side: go on as a new process would.
                    perform = self._recover
                    await asyncio.sleep(RECOVER_AGAIN_S)
                    continue
                await remove_created(active.journal, self._hypervisor)
                failure = await self._failure(active, "internal_error", f"{type(error).__name__}: {error}")
            return failure_message(record.port_id, record.side, failure)

    async def _failure(self, active: ActiveTransfer, code: str, detail: str) -> TransferError:
        running = await self._hypervisor.is_running(active.journal.record.agreement.vm_uuid)
        return TransferError(code, detail, guest_running=running)

    async def _outbound(self, active: ActiveTransfer) -> PortMessage:
        built = await self._factory.outbound(active.journal, broker=active.broker, reporter=active.reporter)
        outbound, lanes = built.transfer, built.lanes
        active.cancel_with(outbound.cancel)
        active.stop = outbound.stop
        try:
            with LaneMetrics(lanes, self._metrics).counting(), active.answering(outbound.copy_asked):
                result = await outbound.run()
        except TransferError:
            await lanes.close(flush_s=FAILED_FLUSH_S)
            raise
        finally:
            await lanes.close()
        self._metrics.downtime_seconds.observe(result.downtime_ms / 1000)
        return result.message(active.journal.record.port_id)

    async def _inbound(self, active: ActiveTransfer) -> PortMessage:
        agreement = active.journal.record.agreement
        built = await self._factory.inbound(active.journal, broker=active.broker)
        inbound, lanes = built.transfer, built.lanes
        active.cancel_with(inbound.cancel)
        active.stop = inbound.stop
        finished = InboundFinished(port_id=agreement.port_id, epoch=agreement.epoch)

        async def on_running() -> None:
            active.arrived = True
            await self._conclude(active, finished, tell=True)

        try:
            await inbound.open()
            active.opened = True
            self._reports.opened(agreement.port_id)
            with LaneMetrics(lanes, self._metrics).counting():
                await inbound.run(on_running)
        except TransferError:
            await lanes.close(flush_s=FAILED_FLUSH_S)
            raise
        finally:
            await lanes.close()
        return finished

    async def _conclude(self, active: ActiveTransfer, message: PortMessage, *, tell: bool) -> None:
        """Store the end and tell it, however long a full disk makes that take."""
        while True:
            try:
                phase = _end_phase(active.journal.record, message)
                if phase is Phase.FAILED:
                    await self._network.undo(active.journal.record.port_id, active.journal.record.side)
                active.journal.conclude(phase, message)
                if tell:
                    self._reports.final(active.journal)
            except OSError as error:
                log.error("end not stored, trying again", error=str(error))  # noqa: TRY400  # every second
                await asyncio.sleep(STORE_AGAIN_S)
            else:
                return

    async def _recover(self, active: ActiveTransfer) -> PortMessage:
        doubt = active.reporter.in_doubt
        recovery = Recovery(
            active.journal, hypervisor=self._hypervisor, broker=active.broker, in_doubt=doubt, network=self._network
        )
        active.cancel_with(recovery.abort)
        active.stop = None
        with active.answering(recovery.copy_asked):
            return await recovery.run()


def _end_phase(record: PortRecord, message: PortMessage) -> Phase:
    if not isinstance(message, TransferFailed) or message.may_have_run:
        return Phase.DONE
    return Phase.KEPT if record.phase is Phase.KEPT else Phase.FAILED


def _log_end(side: Side, error: TransferFailed | None) -> None:
    if error is None:
        log.info("transfer finished", side=side)
    else:
        log.info("transfer failed", side=side, code=error.code, error=error.detail)
