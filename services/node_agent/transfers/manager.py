"""The halves of ports that this node carries out: started, cancelled, recovered, reported. One task per half.

The journal is written before a command is acknowledged, and a half's last word before it is told, so a crash anywhere
loses neither; what is told twice is told with the same meaning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, LiveVm
from services.node_agent.lanes.core.seal import SealError
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.keys import LaneKeys
from services.node_agent.malloc import trim
from services.node_agent.messenger import Reports
from services.node_agent.metrics import Direction, NodeMetrics
from services.node_agent.settings import NodeSection
from services.node_agent.state.journal import HalfJournal, Journal, Phase, PortRecord
from services.node_agent.switchover.broker_client import BrokerTalk
from services.node_agent.switchover.outage_probe import ArpProbe
from services.node_agent.transfers.cleanup import remove_made
from services.node_agent.transfers.inbound import Inbound, InboundFailed, InboundTuning
from services.node_agent.transfers.lane_metrics import LaneMeter
from services.node_agent.transfers.outbound import Outbound, OutboundFailed, OutboundTuning
from services.node_agent.transfers.port_codecs import StreamCodecs
from services.node_agent.transfers.port_contents import PortContents
from services.node_agent.transfers.port_lanes import LaneTuning, PortLanes, PortRoutes
from services.node_agent.transfers.port_sockets import PortSockets
from services.node_agent.transfers.progress import Progress
from services.node_agent.transfers.recovery import Recovery, recover_with_patience
from shared.bus import BusDown, Undeliverable
from shared.domain import DomainXmlError
from shared.logs import port_bound
from shared.messages.base import PortMessage
from shared.messages.nodes import ExpectOutbound
from shared.messages.porting import (
    AbortTransfer,
    InboundFinished,
    InboundOpened,
    OutboundFinished,
    OutboundStarted,
    ServiceChangeAgreement,
    Side,
    TransferAborted,
    TransferFailed,
)
from shared.messages.service_change import PortProgressed
from shared.messages.vm import VmState
from shared.page_stream.bodies import LaneRole
from shared.tasks import Tasks

log = structlog.stdlib.get_logger(__name__)

STORE_AGAIN_S = 1.0
"""How long to wait before an arrival that could not be stored (a full disk) is stored again."""
ASK_AGAIN_S = 1.0
"""How long to wait before libvirt, which did not answer, is asked again where a guest is."""
FAILED_FLUSH_S = 1.0
"""What a failed half has still to say to the other one: the error, if that one listens."""

_DIRECTIONS = {Side.OUTBOUND: Direction.OUTBOUND, Side.INBOUND: Direction.INBOUND}


@dataclass(slots=True)
class ActiveHalf:
    """A half that has a task. `cancel` obeys the broker; `stop` only ends what may be ended without its word."""

    journal: HalfJournal
    talk: BrokerTalk
    cancel: Callable[[], None] | None = None
    stop: Callable[[], None] | None = None
    aborting: bool = False
    opened: bool = False
    started: bool = False
    arrived: bool = False
    provisioned: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        """Stop it, now or as soon as it can be stopped."""
        self.aborting = True
        if self.cancel is not None:
            self.cancel()


Carry = Callable[[ActiveHalf], Coroutine[Any, Any, PortMessage]]


class Halves:
    """All halves of this node."""

    def __init__(
        self,
        settings: NodeSection,
        *,
        hypervisor: Hypervisor,
        journal: Journal,
        reports: Reports,
        routes: PortRoutes,
        keys: LaneKeys,
        metrics: NodeMetrics,
    ) -> None:
        self._settings = settings
        self._hypervisor = hypervisor
        self._journal = journal
        self._reports = reports
        self._routes = routes
        self._keys = keys
        self._metrics = metrics
        self._contents = PortContents(settings, journal)
        self._tasks = Tasks("ports")
        self._active: dict[UUID, ActiveHalf] = {}
        self._doubts: dict[UUID, str] = {}

    def ports(self) -> tuple[UUID, ...]:
        """Ports that have a half under way here."""
        return tuple(self._active)

    def problems(self) -> tuple[str, ...]:
        """What an operator should know: switchovers whose outcome is not known."""
        return tuple(f"port {port_id}: {reason}" for port_id, reason in self._doubts.items())

    def talk(self, port_id: UUID) -> BrokerTalk | None:
        """The conversation that a broker's answer about this port belongs to."""
        half = self._active.get(port_id)
        return half.talk if half else None

    def half(self, port_id: UUID) -> ActiveHalf | None:
        """The half of this port that is under way here."""
        return self._active.get(port_id)

    def described(self, vm: LiveVm) -> None:
        """Somebody asked what this VM is: a port of it may come."""
        self._tasks.spawn(self._contents.read_ahead(vm), name=f"read ahead for {vm.description.name}")

    # ---- commands ----

    def expect(self, command: ExpectOutbound) -> None:
        """The outbound half of this port begins in a moment."""
        if command.port_id not in self._active:
            self._tasks.spawn(self._scan_ahead(command), name=f"expect {command.port_id}")

    async def _scan_ahead(self, command: ExpectOutbound) -> None:
        with port_bound(command.port_id):
            try:
                vm = await self._hypervisor.describe(command.vm_uuid)
            except (HypervisorError, DomainXmlError, DiskImageError) as error:
                log.info("a VM that is to leave cannot be read ahead", reason=str(error))
                return
            await self._contents.scan_ahead(command.port_id, [Path(file) for file in vm.files])

    def start(self, side: Side, agreement: ServiceChangeAgreement) -> None:
        """Begin a half, or say again what became of it."""
        active = self._active.get(agreement.port_id)
        if active is not None:
            self._say_again(active, side)
            return
        record = self._journal.get(agreement.port_id, side)
        if record is not None and record.last_word is not None:
            self._reports.tell(self._reports.agent(side), record.last_word.message)
            return
        record = PortRecord(side=side, agreement=agreement)
        self._journal.put(record)
        run = self._outbound if side is Side.OUTBOUND else self._inbound
        active = self._begin(record)
        self._tasks.spawn(self._carry_out(active, run), name=f"{side} {agreement.port_id}")

    def _say_again(self, active: ActiveHalf, side: Side) -> None:
        port_id, agent = active.journal.record.port_id, self._reports.agent(side)
        if side is Side.INBOUND and active.opened:
            self._reports.tell(agent, InboundOpened(port_id=port_id))
        if side is Side.OUTBOUND and active.started:
            self._reports.tell(agent, OutboundStarted(port_id=port_id))

    def abort(self, command: AbortTransfer) -> None:
        """Stop a half and answer when it is clean; answers also where nothing is under way."""
        active = self._active.get(command.port_id)
        if active is not None:
            active.abort()
        self._tasks.spawn(self._confirm_abort(command, active), name=f"abort {command.port_id}")

    def resolve(self, port_id: UUID) -> None:
        """The broker asks a recipient that has no half under way whether the guest runs here: answer finally."""
        self._tasks.spawn(self._say_where(port_id), name=f"resolve {port_id}")

    def provisioned(self, port_id: UUID) -> None:
        """The arrived VM is this provider's for good: nothing of it is a left-over any more."""
        active = self._active.get(port_id)
        if active is not None:
            active.provisioned = True
        else:
            self._journal.remove(port_id, Side.INBOUND)

    def recover(self) -> tuple[str, ...]:
        """Bring what the former process left to an end; returns names of damaged journal files."""
        records, damaged = self._journal.load()
        for record in records:
            if record.phase in {Phase.DONE, Phase.FAILED}:
                self._tell_last_word(HalfJournal(self._journal, record))
            elif record.phase is not Phase.QUARANTINED:
                active = self._begin(record)
                self._tasks.spawn(self._carry_out(active, self._recover), name=f"recover {record.port_id}")
        self._sweep()
        return tuple(damaged)

    async def stop(self, within_s: float) -> None:
        """Give transfers under way the time to end in order, then leave; the next process recovers the rest."""
        for active in self._active.values():
            if active.stop is not None:
                active.stop()
        waiting = [self._tasks.spawn(active.over.wait(), name="wait") for active in self._active.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=within_s)
        await self._tasks.close()
        self._contents.close()

    def _sweep(self) -> None:
        """At the start and after each half: what is kept grows only by halves."""
        self._tasks.spawn(self._sweep_up(), name="sweep what is kept")

    async def _sweep_up(self) -> None:
        await self._contents.sweep(tuple(self._active))
        await asyncio.to_thread(trim)

    # ---- a half's life ----

    def _begin(self, record: PortRecord) -> ActiveHalf:
        talk = BrokerTalk(record.port_id, self._reports.say_to_broker)
        active = ActiveHalf(HalfJournal(self._journal, record), talk)
        self._active[record.port_id] = active
        self._metrics.transfers_active.labels(_DIRECTIONS[record.side]).inc()
        return active

    async def _carry_out(self, active: ActiveHalf, run: Carry) -> None:
        record = active.journal.record
        direction = _DIRECTIONS[record.side]
        with port_bound(record.port_id):
            try:
                message = await self._to_the_end(active, run)
                good = not isinstance(message, TransferFailed)
                active.journal.conclude(Phase.DONE if good else Phase.FAILED, message)
                if not (active.aborting and not good):
                    self._tell_last_word(active.journal)
                self._metrics.transfers_total.labels(direction, "finished" if good else "failed").inc()
                log.info("half of a port ended", side=record.side, word=type(message).__name__)
            finally:
                self._metrics.transfers_active.labels(direction).dec()
                self._doubts.pop(record.port_id, None)
                del self._active[record.port_id]
                self._routes.forget(record.port_id)
                active.over.set()
                self._sweep()
                if active.provisioned:
                    self._journal.remove(record.port_id, record.side)

    async def _to_the_end(self, active: ActiveHalf, run: Carry) -> PortMessage:
        try:
            return await run(active)
        except SealError as error:
            record = active.journal.record
            log.warning("a half of a port cannot be secured", reason=str(error))
            return TransferFailed(
                port_id=record.port_id,
                side=record.side,
                code=error.code,
                detail=str(error),
                guest_running=await self._runs(record.agreement.vm_uuid),
            )
        except Exception as error:  # whatever broke, the broker must hear it and left-overs must go
            log.exception("transfer broke; this is a defect")
            record = active.journal.record
            if active.arrived:
                # The guest runs here and the ledger says so: nothing of it is undone, whatever else failed.
                return InboundFinished(port_id=record.port_id, epoch=record.agreement.epoch)
            if record.phase not in {Phase.FINISH_PASSED, Phase.DONE}:
                await remove_made(active.journal, self._hypervisor)
            return TransferFailed(
                port_id=record.port_id,
                side=record.side,
                code="internal_error",
                detail=f"{type(error).__name__}: {error}",
                guest_running=await self._runs(record.agreement.vm_uuid),
            )

    def _tell_last_word(self, half: HalfJournal) -> None:
        word = half.record.last_word
        if word is not None and not word.told:
            self._reports.tell(self._reports.agent(half.record.side), word.message)
            half.told()

    async def _outbound(self, active: ActiveHalf) -> PortMessage:
        agreement = active.journal.record.agreement
        contents = self._contents.outbound(agreement)
        try:
            lanes = await self._open_lanes(agreement, Side.OUTBOUND, contents.codecs)
        except SealError:
            await contents.close_scans()
            raise
        settings = self._settings
        half = Outbound(
            agreement,
            hypervisor=self._hypervisor,
            lanes=lanes,
            sockets=PortSockets(settings.run_dir, agreement.port_id, owner=settings.qemu_user),
            talk=active.talk,
            journal=active.journal,
            reporter=_OutboundVoice(self, active),
            contents=contents,
            tuning=OutboundTuning(
                ready_within_s=settings.peer_ready_within_s,
                progress_every_s=settings.progress_s,
                abort_within_s=settings.abort_within_s,
                auto_converge=settings.auto_converge,
            ),
            outage=ArpProbe(interval_s=settings.outage_probe_interval_s) if settings.outage_probe else None,
        )
        self._cancellable(active, half.cancel)
        active.stop = half.stop
        try:
            with LaneMeter(lanes, self._metrics).counting():
                result = await half.run()
        except OutboundFailed as error:
            await lanes.close(flush_s=FAILED_FLUSH_S)
            return TransferFailed(
                port_id=agreement.port_id,
                side=Side.OUTBOUND,
                code=error.code,
                detail=error.detail,
                guest_running=error.guest_running,
            )
        finally:
            await lanes.close()
        self._metrics.downtime_seconds.observe(result.downtime_ms / 1000)
        return OutboundFinished(
            port_id=agreement.port_id,
            downtime_ms=result.downtime_ms,
            outage_ms=result.outage_ms,
            hypervisor_downtime_ms=result.hypervisor_downtime_ms,
            total_ms=result.total_ms,
            memory_bytes=result.memory_bytes,
            disk_bytes=result.disk_bytes,
            wire_bytes=result.wire_bytes,
            seeded_bytes=result.seeded_bytes,
            post_copy=result.post_copy,
        )

    async def _inbound(self, active: ActiveHalf) -> PortMessage:
        agreement = active.journal.record.agreement
        settings = self._settings
        contents = self._contents.inbound(agreement)
        lanes = await self._open_lanes(agreement, Side.INBOUND, contents.codecs)
        half = Inbound(
            agreement,
            hypervisor=self._hypervisor,
            lanes=lanes,
            sockets=PortSockets(settings.run_dir, agreement.port_id, owner=settings.qemu_user),
            talk=active.talk,
            journal=active.journal,
            contents=contents,
            tuning=InboundTuning(libvirt_socket=settings.libvirt_socket, image_dir=settings.image_dir),
        )
        self._cancellable(active, half.cancel)
        active.stop = half.cancel
        finished = InboundFinished(port_id=agreement.port_id, epoch=agreement.epoch)

        async def on_running() -> None:
            active.arrived = True
            await self._store_arrival(active, finished)

        try:
            await half.open()
            active.opened = True
            self._reports.tell(self._reports.agent(Side.INBOUND), InboundOpened(port_id=agreement.port_id))
            with LaneMeter(lanes, self._metrics).counting():
                await half.run(on_running)
        except InboundFailed as error:
            await lanes.close(flush_s=FAILED_FLUSH_S)
            return TransferFailed(
                port_id=agreement.port_id,
                side=Side.INBOUND,
                code=error.code,
                detail=error.detail,
                guest_running=error.guest_running,
            )
        finally:
            await lanes.close()
        return finished

    async def _store_arrival(self, active: ActiveHalf, finished: InboundFinished) -> None:
        """Store and tell that the guest runs here, however long a full disk makes that take."""
        while True:
            try:
                active.journal.conclude(Phase.DONE, finished)
                self._tell_last_word(active.journal)
            except OSError as error:
                log.error("arrival cannot be stored; trying again", error=str(error))  # noqa: TRY400  # each second
                await asyncio.sleep(STORE_AGAIN_S)
            else:
                return

    async def _recover(self, active: ActiveHalf) -> PortMessage:
        record = active.journal.record

        async def in_doubt(reason: str) -> None:
            await self.in_doubt(active, reason)

        recovery = Recovery(active.journal, hypervisor=self._hypervisor, talk=active.talk, in_doubt=in_doubt)
        if record.side is Side.OUTBOUND:
            self._cancellable(active, recovery.keeper.aborted.set)
        return await recover_with_patience(recovery)

    def _cancellable(self, active: ActiveHalf, cancel: Callable[[], None]) -> None:
        active.cancel = cancel
        if active.aborting:
            cancel()

    async def _open_lanes(self, agreement: ServiceChangeAgreement, side: Side, codecs: StreamCodecs) -> PortLanes:
        outbound = side is Side.OUTBOUND
        tuning = LaneTuning(
            memory_window_bytes=self._settings.memory_window_bytes,
            disk_window_bytes=self._settings.disk_window_bytes,
            silence_s=self._settings.lane_silence_s,
        )
        role = LaneRole.INITIATOR if outbound else LaneRole.ACCEPTOR
        tls = self._keys.tls(agreement, role)
        return await PortLanes.open(LaneEnd(agreement, role), self._routes.link, tls, tuning, codecs=codecs)

    # ---- answers ----

    async def _confirm_abort(self, command: AbortTransfer, active: ActiveHalf | None) -> None:
        if active is not None:
            await active.over.wait()
        agent = self._reports.agent(command.side)
        record = self._journal.get(command.port_id, command.side)
        if record is not None and record.phase in {Phase.DONE, Phase.QUARANTINED} and record.last_word is not None:
            # Too late: the guest has left, or has arrived.
            self._reports.tell(agent, record.last_word.message)
            return
        left_overs: tuple[str, ...] = ()
        if record is not None:
            left_overs = await remove_made(HalfJournal(self._journal, record), self._hypervisor)
            if not left_overs:
                self._journal.remove(command.port_id, command.side)
        running = record is not None and await self._runs(record.agreement.vm_uuid)
        aborted = TransferAborted(
            port_id=command.port_id,
            side=command.side,
            guest_running=running or (record is None and command.side is Side.OUTBOUND),
            left_overs=left_overs,
        )
        self._reports.tell(agent, aborted)

    async def _say_where(self, port_id: UUID) -> None:
        record = self._journal.get(port_id, Side.INBOUND)
        agent = self._reports.agent(Side.INBOUND)
        if record is not None and record.phase is Phase.DONE and record.last_word is not None:
            # It has arrived. Whatever became of the guest since (paused, switched off), it is this provider's.
            self._reports.tell(agent, record.last_word.message)
            return
        if record is not None and await self._runs(record.agreement.vm_uuid):
            self._reports.tell(agent, InboundFinished(port_id=port_id, epoch=record.agreement.epoch))
            return
        detail = "this node has no such guest running"
        if record is not None and await remove_made(HalfJournal(self._journal, record), self._hypervisor):
            log.warning("not all of the VM could be removed; the broker is not told that it is gone")
            return
        self._reports.tell(
            agent,
            TransferFailed(
                port_id=port_id, side=Side.INBOUND, code="not_running_here", detail=detail, guest_running=False
            ),
        )

    async def _runs(self, uuid: UUID) -> bool:
        """Whether the guest runs here. Unknown is not "no": libvirt is asked until it answers."""
        while True:
            try:
                return await self._hypervisor.state(uuid) is VmState.RUNNING
            except HypervisorError as error:
                log.warning("libvirt does not answer; asking again", vm=str(uuid), reason=str(error))
                await asyncio.sleep(ASK_AGAIN_S)

    async def in_doubt(self, active: ActiveHalf, reason: str) -> None:
        """Finish is out and its outcome unknown: say so, so that the broker stops the port if it still can."""
        record = active.journal.record
        self._doubts[record.port_id] = f"the outcome of the switchover is not known: {reason}"
        self._reports.tell(
            self._reports.agent(Side.OUTBOUND),
            TransferFailed(
                port_id=record.port_id,
                side=Side.OUTBOUND,
                code="switchover_in_doubt",
                detail=reason,
                guest_running=False,
            ),
        )

    async def started(self, active: ActiveHalf) -> None:
        """libvirt migrates, or contents go ahead."""
        active.started = True
        self._reports.tell(self._reports.agent(Side.OUTBOUND), OutboundStarted(port_id=active.journal.record.port_id))

    async def progressed(self, active: ActiveHalf, progress: Progress, wire_bytes: int) -> None:
        """Tell the broker, if it can be told now; the next report is better than this one late."""
        message = PortProgressed(
            port_id=active.journal.record.port_id,
            phase=progress.phase,
            percent=progress.percent,
            memory=progress.memory,
            disk=progress.disk,
            rate_bytes_per_s=progress.rate_bytes_per_s,
            dirty_rate_bytes_per_s=progress.dirty_rate_bytes_per_s,
            wire_bytes=wire_bytes,
            eta_s=progress.eta_s,
        )
        self._metrics.dirty_rate_bytes_per_second.set(progress.dirty_rate_bytes_per_s)
        try:
            await self._reports.say_to_broker(message)
        except (BusDown, Undeliverable) as error:
            log.debug("a progress report is lost", reason=str(error))


@dataclass(frozen=True, slots=True)
class _OutboundVoice:
    """What an outbound half says, with its half's name on it."""

    halves: Halves
    active: ActiveHalf

    async def started(self) -> None:
        await self.halves.started(self.active)

    async def progressed(self, progress: Progress, *, wire_bytes: int) -> None:
        await self.halves.progressed(self.active, progress, wire_bytes)

    async def in_doubt(self, reason: str) -> None:
        await self.halves.in_doubt(self.active, reason)
