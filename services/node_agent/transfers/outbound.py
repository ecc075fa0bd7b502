"""The outbound half of a port: the guest leaves this host.

libvirt at this host migrates the guest into three sockets of ours; what comes out of them goes into the lanes. This
module starts that, watches it, steers it, and settles who runs the guest. It owns no lane protocol and no RPC bytes.
Where the tenant wants it, contents go ahead (`seeding`) until the window opens by this host's clock; the guest and
libvirt know nothing of that, so there is nothing to undo.

What can go wrong, and what keeps at most one copy running (invariant 1) and no guest lost (invariant 3):

* *Before Finish goes out* every failure makes libvirt resume its own copy; we verify, and resume it where libvirt did
  not. The recipient's copy has never run, and its gate never asks the broker without a Finish.
* *Finish is out, the agent lives.* QEMU's process is stopped (the fence), so no failure of libvirtd, of the lane or of
  the recipient can run the guest here. libvirtd's connection is held open until `donor_verdict` has an answer from the
  ledger; the fence is lifted only then, and only if libvirtd still waits for that answer.
* *Finish is out, this agent dies.* libvirtd sees its connection break and tries to resume; the stopped process cannot
  run. The next agent finds `finish_passed` in the journal, asks the broker, and kills the copy or lets it go on
  (`recovery`). Two gaps remain. Between lifting the fence on good news and libvirtd's own kill there are some
  milliseconds. And a host without the right to signal QEMU (`fence=False` in the log) has no fence: there an agent's
  death within Finish lets libvirtd resume until the restart. Handing the connection's descriptor to the service
  manager would close both; it is not done here.
* *The recipient's agent or libvirtd dies after the commit.* The ledger says the recipient; this copy stays frozen until
  the broker hears that the guest runs there, or gives the VM back.
* *Post-copy.* From its start neither side holds the whole guest, so the fence is not used, and a loss of either side is
  a loss of the guest; so it is used only where the request allows it, and the broker commits before it starts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import structlog

from services.node_agent.dedup.overlay_request import ask_for_overlays
from services.node_agent.dedup.seeding import Seeding, SeedSource
from services.node_agent.hypervisor.interface import (
    Hypervisor,
    HypervisorError,
    JobStats,
    Lifecycle,
    LifecycleEvent,
    LiveVm,
    MigrationAborted,
    MigrationPlan,
)
from services.node_agent.hypervisor.ram_layout import ram_ranges
from services.node_agent.lanes.core.errors import LaneError, QuestionError, StreamError
from services.node_agent.libvirt_rpc.messages import RpcError
from services.node_agent.libvirt_rpc.relay import DonorRelay
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.state.journal import HalfJournal, Kind, Phase
from services.node_agent.switchover.broker_client import BrokerTalk
from services.node_agent.switchover.convergence import (
    PLANNED_BYTES_PER_S,
    GiveUp,
    Ladder,
    SetMaxDowntime,
    StartPostCopy,
    Step,
)
from services.node_agent.switchover.finish_guard import DonorFinishKeeper
from services.node_agent.switchover.outage_probe import NoProbe, OutageWatch
from services.node_agent.switchover.post_copy_request import DRIVER, ask_for_switchover
from services.node_agent.switchover.verdict import Verdict
from services.node_agent.transfers.downtime_control import Steering
from services.node_agent.transfers.port_contents import OutboundContents
from services.node_agent.transfers.port_lanes import PortLanes
from services.node_agent.transfers.port_sockets import Connections, PortSockets, SocketError
from services.node_agent.transfers.progress import Progress, ProgressMeter, SeedingMeter
from services.node_agent.transfers.relay_proxy import DriverBridge
from shared.domain import DomainXmlError, describe, guest_abi_differences
from shared.errors import VmportError
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.vm import VmState
from shared.page_stream.bodies import StreamKind
from shared.tasks import Tasks
from shared.topology import Lane

log = structlog.stdlib.get_logger(__name__)


FIRST_DOWNTIME_MS = 50
"""Before the ladder has seen figures: an idle guest's downtime, where QEMU's default is 300."""
GREETING_BYTES = 64 * 1024
"""More than NBD says before it writes."""
LAST_BYTES_S = 5.0
"""How long connections may take to end by themselves once libvirt is done."""


class OutboundFailed(VmportError):
    """The guest did not leave. `guest_running` is what libvirt said afterwards."""

    def __init__(self, code: str, detail: str, *, guest_running: bool) -> None:
        self.code = code
        self.detail = detail
        self.guest_running = guest_running
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True, slots=True)
class OutboundResult:
    """The guest has left. Bytes are raw for memory and disk, compressed for the wire."""

    downtime_ms: int
    outage_ms: int | None
    hypervisor_downtime_ms: int | None
    total_ms: int
    memory_bytes: int
    disk_bytes: int
    wire_bytes: int
    seeded_bytes: int
    post_copy: bool


class OutboundReporter(Protocol):
    """Who is told."""

    async def started(self) -> None:
        """libvirt migrates, or contents go ahead."""
        ...

    async def progressed(self, progress: Progress, *, wire_bytes: int) -> None:
        """About once a second."""
        ...

    async def in_doubt(self, reason: str) -> None:
        """Finish is out and its outcome unknown; the guest is paused here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundTuning:
    """Times of an outbound half, in seconds."""

    ready_within_s: float = 60.0
    watch_every_s: float = 0.25
    progress_every_s: float = 1.0
    seeding_every_s: float = 5.0
    abort_within_s: float = 5.0
    auto_converge: bool = False


class Outbound:
    """One outbound half; `run` once. `cancel` at any moment."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        hypervisor: Hypervisor,
        lanes: PortLanes,
        sockets: PortSockets,
        talk: BrokerTalk,
        journal: HalfJournal,
        reporter: OutboundReporter,
        contents: OutboundContents,
        tuning: OutboundTuning,
        outage: OutageWatch | None = None,
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
        self._clock = clock
        self._now = now
        self._tasks = Tasks("outbound")
        self._cancelled = asyncio.Event()
        # Set once it is known what the recipient has, and when the port ends before that. What left earlier would leave
        # in full, so the recipient's libvirt is prepared and then this is waited for.
        self._learnt = asyncio.Event()
        self._trouble: tuple[str, str] | None = None
        self._troubled = asyncio.Event()
        self._meter = ProgressMeter(disk_bytes=0, memory_bytes=0)
        self._began_s = clock()
        self._seeded_bytes = 0
        self._started = False
        self._has_memory = False
        self._plans_bytes = False
        self._was_running = False
        self._paused_at_s: float | None = None
        self._connections = Connections()
        self._keeper = DonorFinishKeeper(
            agreement, hypervisor=hypervisor, talk=talk, journal=journal, in_doubt=reporter.in_doubt, clock=clock
        )

    def cancel(self) -> None:
        """Stop: the broker says so, and it says so only while the VM is the donor's."""
        self._cancelled.set()
        self._keeper.aborted.set()

    def stop(self) -> None:
        """Stop if it is not too late: this process ends. Says nothing about who owns the VM."""
        self._cancelled.set()

    async def run(self) -> OutboundResult:
        """Move the guest. Raises `OutboundFailed`; then it runs here, or the error says that it does not."""
        stop_listening = self._hypervisor.listen(self._on_lifecycle)
        try:
            await self._send_ahead()
            self._began_s = self._clock()
            plan = await self._prepare()
            await self._migrate(plan)
            return await self._result()
        except (HypervisorError, SocketError, LaneError, DomainXmlError, TimeoutError, OSError) as error:
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
            self._journal.forget_kind(Kind.DIRECTORY)

    # ---- ahead of the window ----

    def _to_window_s(self) -> float:
        return (self._agreement.window_start - self._now()).total_seconds()

    async def _send_ahead(self) -> None:
        """Return when the window is open. A seeding that fails is waited out; a lane or a cancel ends the port."""
        if not self._agreement.limits.seed or self._to_window_s() <= 0:
            return
        vm = await self._check_vm()
        await self._unless_cancelled(self._lanes.wait_ready(self._tuning.ready_within_s))
        await self._say_started()
        source = SeedSource(
            vm_uuid=self._agreement.vm_uuid,
            disks=[Path(file) for file in vm.files],
            disk_bytes=sum(disk.allocated_bytes for disk in vm.description.disks),
            ram=ram_ranges(vm.domain_xml),
        )
        with self._contents.seeding(self._lanes.disk, source, self._hypervisor) as seeding:
            running = self._tasks.spawn(seeding.run(), name="seed")
            try:
                await self._unless_cancelled(self._until_window(seeding))
            finally:
                running.cancel()
                await asyncio.wait({running})
        self._seeded_bytes = self._lanes.wire_bytes()

    async def _until_window(self, seeding: Seeding) -> None:
        """Tell how far the seeding is until the window opens. Raises LaneError."""
        meter = SeedingMeter()
        while (left_s := self._to_window_s()) > 0:
            progress = meter.update(
                disk=seeding.disk, memory=seeding.memory, sent_bytes=seeding.sent_bytes, now_s=self._clock()
            )
            await self._reporter.progressed(progress, wire_bytes=self._lanes.wire_bytes())
            await asyncio.wait({self._lanes.failed}, timeout=min(left_s, self._tuning.seeding_every_s))
            if self._lanes.failed.done():
                raise self._lanes.failed.result()

    # ---- preparing ----

    async def _check_vm(self) -> LiveVm:
        agreement = self._agreement
        vm = await self._hypervisor.describe(agreement.vm_uuid)
        if vm.description.state is not VmState.RUNNING:
            raise HypervisorError("check the VM", f"{agreement.vm_name} is {vm.description.state}, not running")
        if vm.description.blockers:
            raise HypervisorError("check the VM", "; ".join(vm.description.blockers))
        if differences := guest_abi_differences(vm.domain_xml, agreement.domain_xml):
            raise HypervisorError("check the VM", "it changed since the agreement: " + "; ".join(differences[:5]))
        return vm

    async def _prepare(self) -> MigrationPlan:
        agreement = self._agreement
        vm = await self._check_vm()
        self._was_running = True
        self._contents.scan_ahead(Path(file) for file in vm.files)
        self._outage.open(vm.domain_xml)
        self._journal.remember_disks(vm.files)
        self._journal.will_make(Kind.DIRECTORY, str(self._sockets.directory))
        self._sockets.make_directory()
        await self._sockets.listen(self._sockets.driver, self._on_driver)
        await self._sockets.listen(self._sockets.memory, self._on_memory)
        await self._sockets.listen(self._sockets.disk, self._on_disk)
        await self._unless_cancelled(self._agree_on_layers(vm))
        await self._check_layers(vm)
        self._tasks.spawn(self._learn_contents(vm), name="learn contents, and give them again")
        disks = vm.description.disks
        self._meter = ProgressMeter(
            disk_bytes=sum(disk.allocated_bytes + (0 if self._overlays else disk.beneath_bytes) for disk in disks),
            memory_bytes=vm.description.memory_bytes,
        )
        self._journal.enter(Phase.TRANSFERRING)
        self._plans_bytes = await self._hypervisor.takes_switchover_bandwidth()
        await self._hypervisor.set_max_downtime(agreement.vm_uuid, FIRST_DOWNTIME_MS)
        return MigrationPlan(
            vm_uuid=agreement.vm_uuid,
            driver_uri=self._sockets.driver_uri,
            memory_uri=self._sockets.memory_uri,
            disks_uri=self._sockets.disk_uri,
            domain_xml=agreement.domain_xml,
            disks=tuple(disk.target for disk in agreement.disks),
            overlays=self._overlays,
            switchover_bandwidth_bytes_per_s=PLANNED_BYTES_PER_S if self._plans_bytes else None,
            auto_converge=self._tuning.auto_converge,
            post_copy_allowed=agreement.limits.post_copy != "never",
        )

    async def _unless_cancelled(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what takes minutes when the other end does not answer, or hours until the window; a cancel ends it."""
        working = asyncio.ensure_future(work)
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({working, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise MigrationAborted("wait for the recipient's node agent or the window", "cancelled before it began")
            await working
        finally:
            for each in (working, cancelled):
                each.cancel()
            await asyncio.gather(working, cancelled, return_exceptions=True)

    async def _agree_on_layers(self, vm: LiveVm) -> None:
        """Wait for the other end, and ask it for overlays."""
        await self._lanes.wait_ready(self._tuning.ready_within_s)
        self._overlays = await self._ask_for_overlays(vm)

    async def _learn_contents(self, vm: LiveVm) -> None:
        """Learn what the other end has, while both hypervisors prepare themselves."""
        beneath = {layer.path: None for layers in vm.layers.values() for layer in layers if layer.path is not None}
        copied = vm.files if self._overlays else (*vm.files, *beneath)
        try:
            await self._contents.learn(self._lanes.control, [Path(file) for file in copied])
        except LaneError as error:
            self._note_trouble("lane_failed", str(error))
        finally:
            self._learnt.set()
        self._tasks.spawn(self._send_early(vm), name="send contents early")
        await self._contents.serve_blocks()

    async def _send_early(self, vm: LiveVm) -> None:
        """Use the link until the disks' own bytes flow; before that only NBD's greetings cross."""
        disks = describe(vm.domain_xml).disks
        images = [Path(disk.source) for disk in disks if disk.format == "raw" and not disk.read_only]
        try:
            await self._contents.send_early(self._lanes.disk, images, over=self._disks_flow)
        except LaneError as error:
            log.info("a lane is gone while contents went early", reason=str(error))
        except StreamError as error:
            self._note_trouble("early_contents", str(error))

    def _disks_flow(self) -> bool:
        return self._lanes.raw_bytes_by_direction(Lane.DISK)[0] > GREETING_BYTES

    async def _ask_for_overlays(self, vm: LiveVm) -> bool:
        if self._agreement.limits.overlays == "never" or not vm.layers:
            return False
        wanted = await self._contents.overlays(vm.layers)
        made = wanted is not None and await ask_for_overlays(self._lanes.control, wanted)
        log.info("how the disks that are overlays move", overlays=made, disks=sorted(vm.layers))
        return made

    async def _check_layers(self, vm: LiveVm) -> None:
        """The top layers alone are the disks only while beneath them lies what the recipient was asked for."""
        if not self._overlays:
            return
        now = await self._hypervisor.describe(self._agreement.vm_uuid)
        if (now.files, now.layers) != (vm.files, vm.layers):
            raise HypervisorError("check the VM", "what its disks lie on changed while the port was prepared")

    # ---- migrating ----

    async def _migrate(self, plan: MigrationPlan) -> None:
        if self._cancelled.is_set():
            raise MigrationAborted("migrate", "cancelled before it began")
        migration = self._tasks.spawn(self._call_migrate(plan), name="migrate")
        watcher = self._tasks.spawn(self._watch(), name="watch")
        stopper = self._tasks.spawn(self._stop_on_trouble(migration), name="stop")
        try:
            error = await migration
        finally:
            watcher.cancel()
            stopper.cancel()
        if error is not None and not await self._left_anyway():
            raise error

    async def _left_anyway(self) -> bool:
        """libvirt reports a failure: is the guest at the recipient all the same? Then its copy here must go."""
        if not self._keeper.passed:
            return False
        verdict = self._keeper.verdict
        if verdict is None:
            verdict = await self._keeper.outcome_unknown("this host's hypervisor ended the connection by itself")
        if verdict is not Verdict.RUNS_THERE:
            return False
        await self._hypervisor.destroy(self._agreement.vm_uuid)
        return True

    async def _call_migrate(self, plan: MigrationPlan) -> HypervisorError | None:
        try:
            await self._hypervisor.migrate(plan)
        except HypervisorError as error:
            return error
        return None

    async def _stop_on_trouble(self, migration: asyncio.Task[HypervisorError | None]) -> None:
        """Abort libvirt's job when a lane fails, a handler fails or somebody cancels; what holds Finish decides for
        itself."""
        cancelled = self._tasks.spawn(self._cancelled.wait(), name="wait for cancel")
        troubled = self._tasks.spawn(self._troubled.wait(), name="wait for trouble")
        reasons: set[asyncio.Future[Any]] = {cancelled, troubled, self._lanes.failed}
        await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
        self._learnt.set()
        if self._lanes.failed.done() and self._trouble is None:
            self._trouble = ("lane_failed", str(self._lanes.failed.result()))
        deadline_s = self._clock() + self._tuning.abort_within_s
        while not migration.done() and not self._keeper.passed:
            # libvirt refuses to abort in some phases of a job, so one try is not enough.
            try:
                await self._hypervisor.abort_job(self._agreement.vm_uuid)
            except HypervisorError as error:
                log.info("the job cannot be aborted yet", reason=str(error))
            await asyncio.wait({migration}, timeout=1.0)
            if self._clock() > deadline_s:
                log.warning("libvirt does not end the aborted job; hanging up on it")
                self._sockets.stop_listening()
                self._connections.close()
                return

    async def _watch(self) -> None:
        limits = self._agreement.limits
        ladder = Ladder(
            self._agreement.promised_downtime_ms,
            limits.post_copy,
            stop_and_copy=limits.stop_and_copy,
            plans_bytes=self._plans_bytes,
        )
        steering = Steering(ladder, self._lanes, clock=self._clock)
        uuid = self._agreement.vm_uuid
        tell_at_s = self._clock()
        while True:
            await asyncio.sleep(self._tuning.watch_every_s)
            if self._keeper.passed and not self._keeper.post_copy:
                continue  # a frozen QEMU answers no question
            try:
                stats = await self._hypervisor.job(uuid)
            except HypervisorError as error:
                log.info("no job figures now", reason=str(error))
                continue
            if stats is None:
                continue
            await self._say_started()
            if self._clock() >= tell_at_s:
                tell_at_s = self._clock() + self._tuning.progress_every_s
                await self._tell_progress(stats)
            for step in steering.look(stats):
                await self._climb(step)

    async def _tell_progress(self, stats: JobStats) -> None:
        switchover = self._paused_at_s is not None and not self._keeper.post_copy
        progress = self._meter.update(
            stats, now_s=self._clock(), post_copy=self._keeper.post_copy, switchover=switchover
        )
        await self._reporter.progressed(progress, wire_bytes=self._lanes.wire_bytes())

    async def _climb(self, step: Step) -> None:
        uuid = self._agreement.vm_uuid
        try:
            match step:
                case SetMaxDowntime(milliseconds):
                    log.info("maximum downtime set", milliseconds=milliseconds)
                    await self._hypervisor.set_max_downtime(uuid, milliseconds)
                case StartPostCopy():
                    await ask_for_switchover(self._lanes.control)
                    self._keeper.post_copy = True
                    log.info("post-copy starts")
                    await self._start_post_copy(uuid)
                case GiveUp(reason):
                    self._note_trouble("not_converging", reason)
        except (HypervisorError, QuestionError) as error:
            # The job may just have ended, or the switchover begun: the migration itself will say.
            log.info("a step of the ladder failed", reason=str(error))

    async def _start_post_copy(self, uuid: UUID) -> None:
        """Raises `HypervisorError` where libvirt refuses; then the guest is fenced in Finish as ever."""
        try:
            await self._hypervisor.start_post_copy(uuid)
        except HypervisorError:
            self._keeper.post_copy = False
            if self._keeper.passed:
                # QEMU's own switchover was faster, and Finish went out unfenced because post-copy was expected.
                await self._hypervisor.freeze(uuid)
            raise

    async def _say_started(self) -> None:
        if not self._started:
            self._started = True
            await self._reporter.started()

    def _on_lifecycle(self, event: LifecycleEvent) -> None:
        if event.vm_uuid != self._agreement.vm_uuid or self._keeper.passed:
            return
        if event.kind is Lifecycle.SUSPENDED:
            self._paused_at_s = event.at_s
        elif event.kind is Lifecycle.RESUMED:
            self._paused_at_s = None

    # ---- connections ----

    async def _on_driver(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._connections.track(writer):
            await self._bridge(reader, writer)

    async def _bridge(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            stream = self._lanes.control.open_stream(StreamKind.CONTROL, DRIVER)
            relay = DonorRelay(self._agreement.vm_uuid, self._agreement.vm_name)
            bridge = DriverBridge(reader, writer, stream, relay, self._keeper, before_it_moves=self._learnt.wait)
            await bridge.run()
        except (RpcError, LaneError, StreamError, OSError, ValueError) as error:
            self._note_trouble("driver_connection", str(error))

    async def _on_memory(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._outage.memory_flows()
        # QEMU's first connection is the migration stream; in post-copy a second one carries what the guest waits for.
        first, self._has_memory = not self._has_memory, True
        await self._pump(Lane.MEMORY if first else Lane.URGENT, StreamKind.MEMORY, reader, writer)

    async def _on_disk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._pump(Lane.DISK, StreamKind.DISK, reader, writer)

    async def _pump(
        self, lane: Lane, kind: StreamKind, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        session = self._lanes.session(lane)
        with self._connections.track(writer):
            try:
                await self._lanes.pump(lane, reader, writer, session.open_stream(kind, str(lane)))
            except (LaneError, StreamError, CodecError, OSError, ValueError) as error:
                if not self._keeper.passed:
                    self._note_trouble(f"{lane}_stream", str(error))

    def _note_trouble(self, code: str, detail: str) -> None:
        log.info("a connection of the migration failed", code=code, detail=detail)
        if self._trouble is None:
            self._trouble = (code, detail)
        self._troubled.set()

    # ---- the end ----

    async def _result(self) -> OutboundResult:
        await self._say_started()
        await self._reporter.progressed(self._meter.finish(), wire_bytes=self._lanes.wire_bytes())
        now_s = self._clock()
        known_s = self._keeper.settled_at_s or now_s
        paused_s = known_s if self._paused_at_s is None else self._paused_at_s
        try:
            completed = await self._hypervisor.completed_job(self._agreement.vm_uuid)
        except HypervisorError as error:
            log.info("libvirt's own figures are gone", reason=str(error))
            completed = None
        await self._connections.drain(LAST_BYTES_S)
        return OutboundResult(
            downtime_ms=round(1000 * (known_s - paused_s)),
            outage_ms=await self._outage.finish(self._paused_at_s),
            hypervisor_downtime_ms=completed.downtime_ms if completed else None,
            total_ms=round(1000 * (now_s - self._began_s)),
            memory_bytes=self._lanes.raw_bytes(Lane.MEMORY) + self._lanes.raw_bytes(Lane.URGENT),
            disk_bytes=self._lanes.raw_bytes(Lane.DISK),
            wire_bytes=self._lanes.wire_bytes(),
            seeded_bytes=self._seeded_bytes,
            post_copy=self._keeper.post_copy,
        )

    async def _failure(self, error: Exception) -> OutboundFailed:
        running = await self._run_again()
        if self._cancelled.is_set():
            return OutboundFailed("cancelled", "the transfer was stopped on request", guest_running=running)
        if self._trouble is not None:
            code, detail = self._trouble
            return OutboundFailed(code, f"{detail} ({error})", guest_running=running)
        code = error.code if isinstance(error, VmportError) else "outbound_failed"
        detail = str(error) or type(error).__name__
        return OutboundFailed(code, detail, guest_running=running)

    async def _run_again(self) -> bool:
        """The guest stays here: make sure that it runs, whatever libvirt left. Post-copy's half guest must not run."""
        uuid = self._agreement.vm_uuid
        try:
            state = await self._hypervisor.state(uuid)
            if state is VmState.PAUSED and self._was_running and not self._keeper.post_copy:
                log.warning("libvirt left the guest paused; resuming it")
                await self._hypervisor.thaw(uuid)
                await self._hypervisor.resume(uuid)
                state = await self._hypervisor.state(uuid)
        except HypervisorError:
            log.exception("the guest's state is not known")
            return False
        return state is VmState.RUNNING
