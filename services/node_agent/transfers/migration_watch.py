"""Watches a running migration: reports its progress and carries out what the ladder decides about the downtime."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, JobStats
from services.node_agent.switchover.convergence import GiveUp, Ladder, SetMaxDowntime, StartPostCopy, Step
from services.node_agent.transfers.downtime_control import DowntimeControl
from services.node_agent.transfers.finish_guard import DonorFinishGuard
from services.node_agent.transfers.port_lanes import PortLanes
from services.node_agent.transfers.progress import ProgressMeter
from services.node_agent.transfers.reporting import OutboundReporter
from shared.messages.porting import ServiceChangeAgreement

log = structlog.stdlib.get_logger(__name__)


class MigrationWatch:
    """Watches one migration; `run` until cancelled. `trouble` hears (code, detail) when it cannot converge."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        hypervisor: Hypervisor,
        lanes: PortLanes,
        guard: DonorFinishGuard,
        meter: ProgressMeter,
        reporter: OutboundReporter,
        started: Callable[[], Awaitable[None]],
        trouble: Callable[[str, str], None],
        paused: Callable[[], bool],
        plans_bytes: bool,
        watch_every_s: float,
        progress_every_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`paused` says whether the guest is paused now; `plans_bytes`, whether QEMU follows a planned bandwidth."""
        self._uuid = agreement.vm_uuid
        self._hypervisor = hypervisor
        self._lanes = lanes
        self._guard = guard
        self._meter = meter
        self._reporter = reporter
        self._started = started
        self._note_trouble = trouble
        self._paused = paused
        self._watch_every_s = watch_every_s
        self._progress_every_s = progress_every_s
        self._clock = clock
        limits = agreement.limits
        ladder = Ladder(
            agreement.promised_downtime_ms,
            limits.post_copy,
            stop_and_copy=limits.stop_and_copy,
            plans_bytes=plans_bytes,
        )
        self._downtime = DowntimeControl(ladder, lanes, clock=clock)

    async def run(self) -> None:
        """Sample the job at intervals, until cancelled. Libvirt's errors are logged; the migration itself will say."""
        report_at_s = self._clock()
        while True:
            await asyncio.sleep(self._watch_every_s)
            if self._guard.passed and not self._guard.post_copy:
                continue  # a frozen QEMU answers no question
            try:
                stats = await self._hypervisor.job(self._uuid)
            except HypervisorError as error:
                log.info("job figures unavailable", error=str(error))
                continue
            if stats is None:
                continue
            await self._started()
            if self._clock() >= report_at_s:
                report_at_s = self._clock() + self._progress_every_s
                await self._report(stats)
            for step in self._downtime.sample(stats):
                await self._carry_out(step)

    async def _report(self, stats: JobStats) -> None:
        post_copy = self._guard.post_copy
        progress = self._meter.update(
            stats, now_s=self._clock(), post_copy=post_copy, switchover=self._paused() and not post_copy
        )
        await self._reporter.progressed(progress, wire_bytes=self._lanes.wire_bytes())

    async def _carry_out(self, step: Step) -> None:
        try:
            match step:
                case SetMaxDowntime(milliseconds):
                    log.debug("maximum downtime set", milliseconds=milliseconds)
                    await self._hypervisor.set_max_downtime(self._uuid, milliseconds)
                case StartPostCopy():
                    self._guard.want_post_copy()
                case GiveUp(reason):
                    self._note_trouble("not_converging", reason)
        except HypervisorError as error:
            # The job may just have ended, or the switchover begun: the migration itself will say.
            log.info("downtime step failed", step=type(step).__name__, error=str(error))
