"""The outbound transfer of a port: the guest leaves this host.

libvirt at this host migrates the guest into three sockets of ours; what comes out of them goes into the lanes. This
module starts that; `outbound_preparation` does what comes before it, `migration_watch` what runs beside it, and
`finish_guard` settles who runs the guest, as `machine.table` says. It owns no lane protocol and no RPC bytes.

What can go wrong, and what keeps at most one copy running (invariant 1) and no guest lost (invariant 3):

* *Before Finish goes out* every failure makes libvirt resume its own copy; where it did not, that is done for it, and
  the transfer ends only when the guest is seen running, however often libvirtd is restarted meanwhile. The recipient's
  copy has never run, and its gate never asks the broker without a Finish.
* *The journal cannot be written at Finish.* Finish is refused to libvirtd, which lets the guest run on.
* *Finish is out, the agent lives.* QEMU's process is stopped (the fence), so no failure of libvirtd, of the lane or of
  the recipient can run the guest here. libvirtd's connection is held open until the ledger has decided. If the guest
  has arrived, the stopped process is killed, and only then libvirtd hears of it; a libvirtd that was restarted, and
  hangs on the stopped process, is freed by that.
* *Finish is out, this agent dies.* libvirtd sees its connection break and tries to resume; the stopped process cannot
  run. The next agent finds `finish_passed` in the journal, fences again, asks the broker, and kills the copy or lets it
  go on (`recovery`). A host without the right to signal QEMU (`fence=False` in the log) has no fence: there an agent's
  death within Finish lets libvirtd resume until the restart.
* *The recipient's agent or libvirtd dies after the commit.* The ledger says the recipient; this copy stays frozen until
  the broker hears that the guest runs there, or gives the VM back.
* *Post-copy.* From its start neither side holds the whole guest, so the fence is not used, and a loss of either side is
  a loss of what the guest did since; so it is used only where the request allows it, and the broker commits before it
  starts. It is in the journal before the broker is asked: from then on only the ledger lets the guest run here again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.node_agent.hypervisor.interface import (
    Hypervisor,
    HypervisorError,
    Lifecycle,
    LifecycleEvent,
    MigrationAborted,
    MigrationPlan,
)
from services.node_agent.lanes.core.errors import LaneError
from services.node_agent.network.parties import NetworkFailed
from services.node_agent.state.journal import Kind, Phase, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.convergence import PLANNED_BYTES_PER_S
from services.node_agent.switchover.outage_probe import NoProbe, OutageWatch
from services.node_agent.switchover.post_copy_request import ask_for_switchover
from services.node_agent.switchover.readiness import BrokerReadiness, SwitchoverReadiness
from services.node_agent.switchover.start_fence import StartFence
from services.node_agent.transfers.cleanup import forget_directory
from services.node_agent.transfers.errors import ReadOnlyDiskError, TransferError
from services.node_agent.transfers.finish_guard import DonorFinishGuard, GuardTuning, declaring
from services.node_agent.transfers.migration_watch import MigrationWatch
from services.node_agent.transfers.outbound_connections import OutboundConnections
from services.node_agent.transfers.outbound_preparation import OutboundPreparation, read_only_files
from services.node_agent.transfers.outbound_result import OutboundResult
from services.node_agent.transfers.port_contents import OutboundContents
from services.node_agent.transfers.port_lanes import PortLanes
from services.node_agent.transfers.port_network import JoinedNetworks, PortNetwork
from services.node_agent.transfers.port_sockets import PortSockets, SocketError
from services.node_agent.transfers.progress import ProgressMeter
from services.node_agent.transfers.reporting import OutboundReporter
from shared.domain import DomainXmlError
from shared.errors import VmportError
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.tasks import Tasks, first_of
from shared.topology import Lane

log = get_logger(__name__)

_FAILURES = (
    HypervisorError,
    SocketError,
    LaneError,
    DomainXmlError,
    ReadOnlyDiskError,
    NetworkFailed,
    TimeoutError,
    OSError,
)
FIRST_DOWNTIME_MS = 50
"""Before the ladder has seen figures: an idle guest's downtime, where QEMU's default is 300."""
LAST_BYTES_S = 5.0
"""How long connections may take to end by themselves once libvirt is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundTuning:
    """Times of an outbound transfer, in seconds."""

    ready_within_s: float = 60.0
    watch_every_s: float = 0.25
    progress_every_s: float = 1.0
    seeding_every_s: float = 5.0
    abort_within_s: float = 5.0
    look_again_s: float = 1.0
    auto_converge: bool = False


class Outbound:
    """One outbound transfer; `run` once. `cancel` at any moment."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        hypervisor: Hypervisor,
        lanes: PortLanes,
        sockets: PortSockets,
        broker: BrokerClient,
        journal: TransferJournal,
        reporter: OutboundReporter,
        contents: OutboundContents,
        tuning: OutboundTuning,
        outage: OutageWatch | None = None,
        network: PortNetwork | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` measures, in seconds; `now` is the time of day, by which the window opens."""
        self._agreement = agreement
        self._hypervisor = hypervisor
        self._lanes = lanes
        self._sockets = sockets
        self._journal = journal
        self._reporter = reporter
        self._contents = contents
        self._tuning = tuning
        self._outage = outage or NoProbe()
        self._network = network or JoinedNetworks()
        self._clock = clock
        self._tasks = Tasks("outbound")
        self._trouble: tuple[str, str] | None = None
        self._troubled = asyncio.Event()
        self._meter = ProgressMeter(disk_bytes=0, memory_bytes=0)
        self._began_s = clock()
        self._started = False
        self._plans_bytes = False
        self._paused_at_s: float | None = None
        self._start_fence = StartFence(hypervisor, journal)
        self._guard = DonorFinishGuard(
            agreement,
            hypervisor=hypervisor,
            broker=broker,
            store=declaring(journal, self._start_fence),
            stays=self._start_fence.open,
            was_running=journal.record.was_running,
            in_doubt=reporter.in_doubt,
            ask_for_post_copy=lambda: ask_for_switchover(lanes.control),
            tuning=GuardTuning(look_again_s=tuning.look_again_s),
            remember_epoch=journal.remember_epoch,
            network=network,
            clock=clock,
        )
        self.copy_asked = self._guard.copy_asked
        self._readiness = SwitchoverReadiness(broker.readiness, lanes.control, clock=clock)
        self._preparation = self._make_preparation(now, broker.readiness)
        self._connections = OutboundConnections(
            agreement,
            lanes=lanes,
            guard=self._guard,
            contents_known=self._preparation.contents_known.wait,
            memory_flows=self._on_memory_flows,
            trouble=self._note_trouble,
        )

    def _make_preparation(self, now: Callable[[], datetime], readiness: BrokerReadiness | None) -> OutboundPreparation:
        return OutboundPreparation(
            self._agreement,
            hypervisor=self._hypervisor,
            lanes=self._lanes,
            contents=self._contents,
            reporter=self._reporter,
            started=self._report_started,
            trouble=self._note_trouble,
            tasks=self._tasks,
            ready_within_s=self._tuning.ready_within_s,
            progress_every_s=self._tuning.progress_every_s,
            seeding_every_s=self._tuning.seeding_every_s,
            clock=self._clock,
            now=now,
            readiness=readiness,
        )

    def cancel(self) -> None:
        """Stop: the broker says so, and it says so only while the VM is the donor's."""
        self._preparation.cancelled.set()
        self._guard.abort()

    def stop(self) -> None:
        """Stop if it is not too late: this process ends. Says nothing about who owns the VM."""
        self._preparation.cancelled.set()

    async def run(self) -> OutboundResult:
        """Move the guest. Raises `TransferError`, which says whether it runs here."""
        stop_listening = self._hypervisor.listen(self._on_lifecycle)
        self._tasks.spawn(self._guard.run(), name="finish guard")
        try:
            await self._preparation.seed_until_window()
            self._began_s = self._clock()
            plan = await self._prepare()
            await self._migrate(plan)
            return await self._result()
        except _FAILURES as error:
            raise await self._failure(error) from error
        except asyncio.CancelledError:
            # This process ends; the next one recovers. Nothing is waited for, and libvirtd hears it by its sockets.
            self._connections.close()
            raise
        finally:
            stop_listening()
            await self._outage.close()
            self._sockets.stop_listening()
            await self._tasks.close()
            await self._contents.close_scans()
            await self._connections.drain(LAST_BYTES_S)
            self._sockets.remove()
            forget_directory(self._journal)

    # ---- preparing ----

    async def _prepare(self) -> MigrationPlan:
        agreement = self._agreement
        vm = await self._preparation.check_vm()
        self._contents.scan_ahead(Path(file) for file in vm.files)
        self._outage.open(vm.domain)
        self._journal.remember_vm(vm.files, vm.state_folders, read_only=tuple(read_only_files(vm).values()))
        self._guard.guest_runs()
        self._journal.will_create(Kind.DIRECTORY, str(self._sockets.directory))
        self._sockets.make_directory()
        await self._connections.listen(self._sockets)
        await self._preparation.negotiate_overlays(vm)
        self._journal.remember_secrets(await self._preparation.hand_over_secrets(vm))
        self._preparation.exchange_contents(vm)
        self._meter = self._preparation.meter(vm)
        await self._preparation.send_read_only(vm, self._meter)
        await self._network.prepare(Side.OUTBOUND, agreement, vm.taps)
        self._journal.enter(Phase.TRANSFERRING)
        await self._start_fence.hold_autostart(is_on=vm.description.autostart)
        self._plans_bytes = await self._hypervisor.takes_switchover_bandwidth()
        await self._hypervisor.set_max_downtime(agreement.vm_uuid, FIRST_DOWNTIME_MS)
        # No bandwidth of libvirt's: the lanes hold the cap, which is on what crosses the wire, after the codec.
        return MigrationPlan(
            vm_uuid=agreement.vm_uuid,
            driver_uri=self._sockets.driver_uri,
            memory_uri=self._sockets.memory_uri,
            disks_uri=self._sockets.disk_uri,
            domain_xml=agreement.domain_xml,
            disks=tuple(disk.target for disk in agreement.disks if not disk.read_only),
            overlays=self._preparation.overlays,
            switchover_bandwidth_bytes_per_s=PLANNED_BYTES_PER_S if self._plans_bytes else None,
            auto_converge=self._tuning.auto_converge,
            post_copy_allowed=agreement.limits.post_copy != "never",
        )

    # ---- migrating ----

    def _make_watch(self) -> MigrationWatch:
        return MigrationWatch(
            self._agreement,
            hypervisor=self._hypervisor,
            lanes=self._lanes,
            guard=self._guard,
            meter=self._meter,
            reporter=self._reporter,
            started=self._report_started,
            trouble=self._note_trouble,
            paused=lambda: self._paused_at_s is not None,
            plans_bytes=self._plans_bytes,
            watch_every_s=self._tuning.watch_every_s,
            progress_every_s=self._tuning.progress_every_s,
            clock=self._clock,
            not_ready=lambda: self._readiness.problem or self._network.not_ready(self._agreement.port_id),
        )

    async def _migrate(self, plan: MigrationPlan) -> None:
        if self._preparation.cancelled.is_set():
            raise MigrationAborted("migrate", "cancelled before it began")
        migration = self._tasks.spawn(self._call_migrate(plan), name="migrate")
        watcher = self._tasks.spawn(self._make_watch().run(), name="watch")
        stopper = self._tasks.spawn(self._stop_on_trouble(migration), name="stop")
        try:
            error = await migration
        finally:
            watcher.cancel()
            stopper.cancel()
        end = await self._guard.migration_ended(None if error is None else str(error))
        if not end.left:
            raise error or HypervisorError(
                "migrate", "libvirt says that the guest has left, the broker that it has not"
            )

    async def _call_migrate(self, plan: MigrationPlan) -> HypervisorError | None:
        try:
            await self._hypervisor.migrate(plan)
        except HypervisorError as error:
            return error
        return None

    async def _stop_on_trouble(self, migration: asyncio.Task[HypervisorError | None]) -> None:
        """Abort libvirt's job when a lane fails, a handler fails or somebody cancels; what holds Finish decides for
        itself."""
        await first_of(self._preparation.cancelled.wait(), self._troubled.wait(), self._lanes.failed)
        self._preparation.contents_known.set()
        if self._lanes.failed.done() and self._trouble is None:
            self._trouble = ("lane_failed", str(self._lanes.failed.result()))
        deadline_s = self._clock() + self._tuning.abort_within_s
        while not migration.done() and not self._guard.passed:
            # libvirt refuses to abort in some phases of a job, so one try is not enough.
            try:
                await self._hypervisor.abort_job(self._agreement.vm_uuid)
            except HypervisorError as error:
                log.info("job cannot be aborted yet", error=str(error))
            await asyncio.wait({migration}, timeout=1.0)
            if self._clock() > deadline_s:
                log.warning("aborted job does not end; closing its connections")
                self._sockets.stop_listening()
                self._connections.close()
                return

    async def _report_started(self) -> None:
        if not self._started:
            self._started = True
            await self._reporter.started()

    def _on_memory_flows(self) -> None:
        self._outage.memory_flows()
        self._network.memory_flows(self._agreement, self._lanes.control, self._note_trouble)
        self._tasks.spawn(self._readiness.run(), name="readiness")

    def _on_lifecycle(self, event: LifecycleEvent) -> None:
        if event.vm_uuid != self._agreement.vm_uuid or self._guard.passed:
            return
        if event.kind is Lifecycle.SUSPENDED:
            self._paused_at_s = event.at_s
            if event.by_operator:
                self._remember_run_state(was_running=False)
            else:
                # What is sent to the guest from now on is for the other side.
                self._network.guest_stands_still(self._agreement.port_id)
        elif event.kind is Lifecycle.RESUMED:
            self._paused_at_s = None
            self._network.guest_runs_on(self._agreement.port_id)
            self._remember_run_state(was_running=True)

    def _remember_run_state(self, *, was_running: bool) -> None:
        (self._guard.guest_runs if was_running else self._guard.guest_suspended)()
        try:
            self._journal.remember_run_state(was_running=was_running)
        except OSError as error:
            log.warning("guest's run state not stored", was_running=was_running, error=str(error))

    def _note_trouble(self, code: str, detail: str) -> None:
        log.info("migration connection failed", code=code, error=detail)
        if self._trouble is None:
            self._trouble = (code, detail)
        self._troubled.set()

    # ---- the end ----

    async def _result(self) -> OutboundResult:
        await self._report_started()
        await self._reporter.progressed(self._meter.finish(), wire_bytes=self._lanes.wire_bytes())
        now_s = self._clock()
        known_s = self._guard.settled_at_s or now_s
        paused_s = known_s if self._paused_at_s is None else self._paused_at_s
        try:
            completed = await self._hypervisor.completed_job(self._agreement.vm_uuid)
        except HypervisorError as error:
            log.info("completed job figures unavailable", error=str(error))
            completed = None
        await self._connections.drain(LAST_BYTES_S)
        return OutboundResult(
            downtime_ms=round(1000 * (known_s - paused_s)),
            outage_ms=await self._outage.finish(self._paused_at_s),
            hypervisor_downtime_ms=completed.downtime_ms if completed else None,
            total_ms=round(1000 * (now_s - self._began_s)),
            memory_bytes=self._lanes.raw_bytes(Lane.MEMORY) + self._lanes.raw_bytes(Lane.URGENT),
            disk_bytes=self._lanes.raw_bytes(Lane.DISK) + self._meter.sent_ahead_bytes,
            wire_bytes=self._lanes.wire_bytes(),
            seeded_bytes=self._preparation.seeded_bytes,
            post_copy=self._guard.post_copy,
        )

    async def _failure(self, error: Exception) -> TransferError:
        """The error to tell, when the guest is certain to run here, or not to."""
        running = (await self._guard.migration_ended(str(error))).running
        if self._preparation.cancelled.is_set():
            return TransferError("cancelled", "the transfer was stopped on request", guest_running=running)
        if self._trouble is not None:
            code, detail = self._trouble
            return TransferError(code, f"{detail} ({error})", guest_running=running)
        code = error.code if isinstance(error, VmportError) else "outbound_failed"
        detail = str(error) or type(error).__name__
        return TransferError(code, detail, guest_running=running)
