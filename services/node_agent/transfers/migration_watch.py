"""Watches a running migration: reports its progress and carries out what the ladder decides about the downtime."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, JobStats
from services.node_agent.switchover.convergence import (
    GiveUp,
    Ladder,
    SetMaxDowntime,
    StartPostCopy,
    Step,
    first_round_is_all_but_over,
)
from services.node_agent.transfers.downtime_control import DowntimeControl
from services.node_agent.transfers.finish_guard import DonorFinishGuard
from services.node_agent.transfers.port_lanes import PortLanes
from services.node_agent.transfers.progress import ProgressMeter
from services.node_agent.transfers.reporting import OutboundReporter
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement
from shared.tasks import Tasks
from shared.topology import Lane

log = get_logger(__name__)

ASK_AGAIN_S: Final = 2.0
"""At least so long between two questions for post-copy."""


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
        not_ready: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`paused` says whether the guest is paused now; `plans_bytes`, whether QEMU follows a planned bandwidth;
        `not_ready`, why the guest must not be paused now, None when it may.
        """
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
        self._not_ready = not_ready
        self._held: str | None = None
        self._tasks = Tasks("migration watch")
        self._reporting: asyncio.Task[None] | None = None
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
        try:
            while True:
                await asyncio.sleep(self._watch_every_s)
                if self._guard.passed and not self._guard.post_copy:
                    self._hold(None)
                    continue  # a frozen QEMU answers no question
                try:
                    stats = await self._hypervisor.job(self._uuid)
                except HypervisorError as error:
                    log.info("job figures unavailable", error=str(error))
                    continue
                if stats is None:
                    continue
                await self._started()
                self._hold_if_not_ready(stats)
                if self._clock() >= report_at_s:
                    report_at_s = self._clock() + self._progress_every_s
                    self._report(stats)
                for step in self._downtime.sample(stats, may_switch=self._held is None):
                    await self._carry_out(step)
        finally:
            self._hold(None)
            await self._tasks.close()

    def _report(self, stats: JobStats) -> None:
        """Report beside the watch: while RabbitMQ is away a report may take seconds, and the guest does not wait."""
        post_copy = self._guard.post_copy
        progress = self._meter.update(
            stats, now_s=self._clock(), post_copy=post_copy, switchover=self._paused() and not post_copy
        )
        if self._reporting is None or self._reporting.done():
            report = self._reporter.progressed(
                replace(progress, waiting_for=self._held), wire_bytes=self._lanes.wire_bytes()
            )
            self._reporting = self._tasks.spawn(report, name="progress")

    # ---- holding the switchover off ----

    def _hold_if_not_ready(self, stats: JobStats) -> None:
        """While the broker could not commit, the guest must not be paused: the limit is the least there is, and, so
        that not even a guest that writes little gets through, the end of its memory is not read from QEMU. A guest
        that is paused already only waits longer so.
        """
        too_late = self._guard.post_copy or self._paused()
        problem = None if too_late or stats.memory_total_bytes == 0 else self._not_ready()
        self._hold(problem, read_on=not first_round_is_all_but_over(stats))

    def _hold(self, problem: str | None, *, read_on: bool = True) -> None:
        if (problem is None) != (self._held is None):
            log.info("switchover held off" if problem else "switchover no longer held off", reason=problem)
            self._reporter.held(held=problem is not None)
        self._held = problem
        self._lanes.stop_reading(Lane.MEMORY, stopped=problem is not None and not read_on)

    # ---- steps ----

    async def _carry_out(self, step: Step) -> None:
        try:
            match step:
                case SetMaxDowntime(milliseconds):
                    log.debug("maximum downtime set", milliseconds=milliseconds)
                    await self._hypervisor.set_max_downtime(self._uuid, milliseconds)
                case StartPostCopy():
                    # Asked for until it has started; the guard repeats the question by itself.
                    self._guard.want_post_copy()
                    if not self._guard.post_copy:
                        return
                case GiveUp(reason):
                    self._note_trouble("not_converging", reason)
        except HypervisorError as error:
            # The job may just have ended, or the switchover begun: the migration itself will say. Else it is tried
            # again: the ladder is not told that it was done.
            log.info("downtime step failed", step=type(step).__name__, error=str(error))
        else:
            self._downtime.carried_out(step)
