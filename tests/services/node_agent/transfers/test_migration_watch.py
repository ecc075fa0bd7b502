"""The watch beside a migration: figures are reported, steps are carried out, libvirt's errors end nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError, JobStats
from services.node_agent.switchover.convergence import NEVER_MS, GiveUp, SetMaxDowntime, StartPostCopy
from shared.messages.service_change import TransferPhase

if TYPE_CHECKING:
    from services.node_agent.transfers.migration_watch import MigrationWatch
    from tests.support.transfer_pair import Pair

VM = UUID("11111111-2222-3333-4444-555555555501")
MEMORY = JobStats(memory_total_bytes=100, memory_processed_bytes=40, memory_remaining_bytes=60, memory_iteration=1)


class Job:
    """libvirt's job: the figures, or an error, for each question; it counts them."""

    def __init__(self, *answers: JobStats | HypervisorError | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.all_asked = asyncio.Event()

    async def __call__(self, uuid: UUID) -> JobStats | None:  # noqa: ARG002  # one VM only
        """The next answer; the last one is repeated."""
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if self.asked > len(self.answers):
            self.all_asked.set()
        if isinstance(answer, HypervisorError):
            raise answer
        return answer


@asynccontextmanager
async def watching(pair: Pair, job: Job, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MigrationWatch]:
    """Watch until the job was asked for all its answers."""
    monkeypatch.setattr(pair.donor, "job", job)
    watch = pair.outbound._make_watch()
    running = asyncio.ensure_future(watch.run())
    async with asyncio.timeout(5):
        await job.all_asked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    yield watch


async def test_figures_are_reported(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones say that libvirt migrates; an error and a job that has not begun are passed over."""
    answers = (None, HypervisorError("job", "busy"), MEMORY, MEMORY, MEMORY)
    async with watching(pair, Job(*answers), monkeypatch):
        assert pair.heard.starts == 1
        assert set(pair.heard.phases) == {TransferPhase.MEMORY}


async def test_a_frozen_guest_is_not_asked(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU is stopped: a question would hang."""
    job = Job(MEMORY)
    monkeypatch.setattr(pair.donor, "job", job)
    pair.outbound._guard.passed = True
    running = asyncio.ensure_future(pair.outbound._make_watch().run())
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert job.asked == 0


async def test_a_step_that_fails_is_left_to_the_migration(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job may just have ended; nothing is in trouble."""

    async def fails(*_: object) -> None:
        raise HypervisorError("step", "no job")

    monkeypatch.setattr(pair.donor, "set_max_downtime", fails)
    await pair.outbound._make_watch()._carry_out(SetMaxDowntime(20))
    assert pair.outbound._trouble is None


async def test_post_copy_is_the_guards_matter(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It declares, asks and starts it."""
    wanted: list[bool] = []
    monkeypatch.setattr(pair.outbound._guard, "want_post_copy", lambda: wanted.append(True))
    await pair.outbound._make_watch()._carry_out(StartPostCopy())
    assert wanted == [True]


async def test_a_guest_that_does_not_converge_ends_the_port(pair: Pair) -> None:
    """With the reason."""
    await pair.outbound._make_watch()._carry_out(GiveUp("it writes too fast"))
    assert pair.outbound._trouble == ("not_converging", "it writes too fast")


async def test_a_new_limit_reaches_libvirt(pair: Pair) -> None:
    """In milliseconds."""
    await pair.outbound._make_watch()._carry_out(SetMaxDowntime(123))
    assert pair.donor.max_downtimes_ms == [123]


async def test_a_switchover_is_held_off_while_the_broker_is_away(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the least, and the end of the memory is not read; both are taken back when the broker is there."""
    problem: str | None = "waiting for the broker"
    stops: list[bool] = []

    def stop_reading(_: object, *, stopped: bool) -> None:
        stops.append(stopped)

    monkeypatch.setattr(pair.lanes_a, "stop_reading", stop_reading)
    watch = pair.outbound._make_watch()
    watch._not_ready = lambda: problem
    for stats in (MEMORY, JobStats(memory_total_bytes=100, memory_iteration=2)):
        watch._hold_if_not_ready(stats)
        for step in watch._downtime.sample(stats, may_switch=watch._held is None):
            await watch._carry_out(step)
    assert stops == [False, True]
    assert pair.donor.max_downtimes_ms == [NEVER_MS]
    problem = None
    watch._hold_if_not_ready(JobStats(memory_total_bytes=100, memory_iteration=2))
    assert stops[-1] is False
    assert pair.heard.holds == [True, False]


async def test_a_paused_guest_is_not_held(pair: Pair) -> None:
    """It would only wait longer."""
    watch = pair.outbound._make_watch()
    watch._not_ready = lambda: "waiting for the broker"
    watch._paused = lambda: True
    watch._hold_if_not_ready(JobStats(memory_total_bytes=100, memory_iteration=2))
    assert watch._held is None


async def test_a_report_that_takes_long_delays_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ is away: the guest's migration is watched all the same, and one report waits, not many."""
    reports: list[object] = []

    async def stuck(progress: object, *, wire_bytes: int) -> None:  # noqa: ARG001  # the reporter's shape
        reports.append(progress)
        await asyncio.Event().wait()

    monkeypatch.setattr(pair.heard, "progressed", stuck)
    async with watching(pair, Job(*[MEMORY] * 20), monkeypatch):
        assert len(reports) == 1
