"""The watch beside a migration: figures are reported, steps are carried out, libvirt's errors end nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError, JobStats
from services.node_agent.switchover.convergence import GiveUp, SetMaxDowntime, StartPostCopy
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
