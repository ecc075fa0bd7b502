"""The donor's shell: it declares, fences, asks and answers in the machine's order, and waits where nothing is known."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.lanes.core.errors import QuestionError
from services.node_agent.state.journal import Journal, Phase, PortRecord, TransferJournal
from services.node_agent.switchover.broker_client import Answer
from services.node_agent.switchover.post_copy_request import PostCopyDenied
from services.node_agent.switchover.start_fence import StartFence
from services.node_agent.transfers import finish_guard
from services.node_agent.transfers.finish_guard import DonorFinishGuard, End, GuardTuning, Outcome, declaring
from shared.messages.base import PortMessage
from shared.messages.porting import GuestPaused, Side, SwitchoverState
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM, FakeBroker, make_agreement


class Guarded:
    """A paused guest, all of which was sent; the clock stands at 7 s. `post_copy_answers` are given one by one."""

    def __init__(self, folder: Path) -> None:
        agreement = make_agreement(folder / "x.raw", domain_xml=DOMAIN % "/a.raw")
        self.port_id = agreement.port_id
        self.hypervisor = FakeHypervisor()
        self.hypervisor.add(DOMAIN % "/a.raw", state=VmState.PAUSED)
        self.vm = self.hypervisor.vms[VM]
        self.store = Journal(folder / "ports").open()
        self.journal = TransferJournal(self.store, PortRecord(side=Side.OUTBOUND, agreement=agreement))
        self.broker = FakeBroker(agreement.port_id)
        self.doubts: list[str] = []
        self.post_copy_answers: list[Exception | None] = []
        self.post_copy_asked = 0
        self.fence = StartFence(self.hypervisor, self.journal)
        self.guard = DonorFinishGuard(
            agreement,
            hypervisor=self.hypervisor,
            broker=self.broker.client(),
            store=declaring(self.journal, self.fence),
            stays=self.fence.open,
            was_running=True,
            in_doubt=self.in_doubt,
            ask_for_post_copy=self.ask_for_post_copy,
            tuning=GuardTuning(look_again_s=0.01, post_copy_again_s=0.01),
            clock=lambda: 7.0,
        )

    async def in_doubt(self, reason: str) -> None:
        """Told to the broker."""
        self.doubts.append(reason)

    async def ask_for_post_copy(self) -> None:
        """The recipient's node."""
        self.post_copy_asked += 1
        answer = self.post_copy_answers.pop(0) if self.post_copy_answers else None
        if answer is not None:
            raise answer

    def full(self, monkeypatch: pytest.MonkeyPatch, *phases: Phase) -> None:
        """The state directory has no room for these phases."""
        store = self.store.store

        def store_if_there_is_room(record: PortRecord) -> None:
            if record.phase in phases:
                raise OSError(errno.ENOSPC, "No space left on device")
            store(record)

        monkeypatch.setattr(self.store, "store", store_if_there_is_room)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    made = Guarded(tmp_path)
    running = asyncio.ensure_future(made.guard.run())
    async with asyncio.timeout(10):
        yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    while not condition():  # noqa: ASYNC110  # what several tasks bring about
        await asyncio.sleep(0.01)


async def until_still(guarded: Guarded) -> None:
    """All that was told is heard."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert guarded.guard._machine._events.empty()


async def test_the_guest_is_fenced_and_finish_remembered(guarded: Guarded) -> None:
    """Before Finish goes out; and the broker hears that the guest stands still."""
    assert await guarded.guard.before_finish() is None
    assert guarded.guard.passed
    assert guarded.vm.frozen
    assert guarded.journal.record.phase is Phase.FINISH_PASSED
    await until_still(guarded)
    assert guarded.broker.asked == [GuestPaused(port_id=guarded.port_id, vm_uuid=VM, epoch=2)]


async def test_a_full_disk_refuses_finish(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest was not fenced, nobody was told anything, and libvirtd lets it run on."""
    guarded.full(monkeypatch, Phase.FINISH_PASSED)
    refusal = await guarded.guard.before_finish()
    assert refusal is not None
    assert "No space left" in refusal
    assert not guarded.guard.passed
    assert not guarded.vm.frozen
    assert guarded.broker.asked == []


async def test_a_guest_that_cannot_be_fenced_does_not_leave(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be fenced or not: so it is thawed, and Finish refused."""

    async def fails(uuid: UUID) -> bool:
        raise HypervisorError("freeze", f"no answer about {uuid}")

    monkeypatch.setattr(guarded.hypervisor, "freeze", fails)
    guarded.vm.frozen = True
    assert "no answer" in str(await guarded.guard.before_finish())
    await until_still(guarded)
    assert not guarded.vm.frozen
    assert guarded.journal.record.phase is Phase.TRANSFERRING


async def test_the_recipients_word_needs_the_ledgers(guarded: Guarded) -> None:
    """It says that the guest runs there; the broker has not committed: the guest here stands still."""
    await guarded.guard.before_finish()
    guarded.guard.finish_answered(None)
    waiting = asyncio.ensure_future(guarded.guard.outcome())
    await guarded.broker.was_asked.wait()
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert guarded.vm.frozen
    guarded.broker.committed = True
    assert (await waiting).runs_there
    assert guarded.guard.settled_at_s == 7.0


async def test_a_pushed_commit_saves_the_question(guarded: Guarded) -> None:
    """The broker tells the donor of its commit; the recipient's answer then settles it at once."""
    guarded.broker.committed = True
    await guarded.guard.before_finish()
    await until_still(guarded)
    guarded.guard.finish_answered(None)
    assert await guarded.guard.outcome() == Outcome(runs_there=True, reason="the port failed: ")
    assert not guarded.broker.was_asked.is_set()


async def test_the_copy_of_a_guest_that_has_left_is_killed_before_libvirtd_hears_it(guarded: Guarded) -> None:
    """It is never thawed: a resume that libvirtd has queued finds nobody."""
    await guarded.guard.before_finish()
    guarded.vm.runs_after_thaw = True
    guarded.broker.committed = True
    guarded.guard.finish_answered(None)
    await guarded.guard.outcome()
    assert guarded.vm.state is VmState.SHUT_OFF
    assert guarded.vm.ran_at_s == []
    assert await guarded.guard.migration_ended(None) == End(left=True, running=False)


async def test_an_error_of_libvirt_about_a_guest_that_has_left_is_cleared_up(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirtd was restarted, and is away for a while."""
    guarded.broker.committed = guarded.broker.arrived = True
    await guarded.guard.before_finish()
    destroy, away = guarded.hypervisor.destroy, [None] * 3

    async def destroy_when_back(uuid: UUID) -> None:
        if away:
            away.pop()
            raise HypervisorError("destroy", "libvirtd is away")
        await destroy(uuid)

    monkeypatch.setattr(guarded.hypervisor, "destroy", destroy_when_back)
    assert (await guarded.guard.migration_ended("libvirtd is away")).left
    assert away == []
    assert guarded.vm.state is VmState.SHUT_OFF


async def test_a_failed_finish_is_settled_by_the_ledger(guarded: Guarded) -> None:
    """Nothing was committed, nor will be: the guest runs here, and the journal knows."""
    await guarded.guard.before_finish()
    guarded.guard.finish_answered("out of memory")
    assert await guarded.guard.outcome() == Outcome(runs_there=False, reason="the port failed: out of memory")
    assert guarded.guard.settled_at_s is None
    assert not guarded.vm.frozen
    assert guarded.journal.record.phase is Phase.RETURNING
    assert guarded.doubts == []


async def test_a_failed_finish_waits_while_the_broker_could_commit(guarded: Guarded) -> None:
    """Its "not committed" of now is no promise: it is told, and its abort decides."""
    guarded.broker.ready = True
    await guarded.guard.before_finish()
    guarded.guard.finish_answered("out of memory")
    waiting = asyncio.ensure_future(guarded.guard.outcome())
    await until(lambda: bool(guarded.doubts))
    assert not waiting.done()
    assert guarded.vm.frozen
    guarded.guard.abort()
    assert not (await waiting).runs_there


async def test_a_lost_answer_waits_until_the_ledger_decides(guarded: Guarded) -> None:
    """Committed, but the recipient has not said that it runs: that is no verdict yet."""
    guarded.broker.committed = True
    await guarded.guard.before_finish()
    guarded.guard.lane_lost("lane lost")
    waiting = asyncio.ensure_future(guarded.guard.outcome())
    await guarded.broker.was_asked.wait()
    assert guarded.doubts == ["lane lost"]
    assert not waiting.done()
    guarded.broker.arrived = True
    assert (await waiting).runs_there


async def test_an_abort_is_heard_while_the_broker_is_silent(guarded: Guarded) -> None:
    """It says that the guest runs here."""
    guarded.broker.silent = True
    await guarded.guard.before_finish()
    guarded.guard.abort()
    assert not (await guarded.guard.outcome()).runs_there
    assert not guarded.vm.frozen


async def test_a_full_disk_does_not_keep_a_guest_that_is_given_back(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process would ask the ledger, and hear the same."""
    await guarded.guard.before_finish()
    guarded.full(monkeypatch, Phase.RETURNING)
    guarded.guard.abort()
    assert not (await guarded.guard.outcome()).runs_there
    assert not guarded.vm.frozen


async def test_the_broker_is_asked_when_the_answer_is_late(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane may be dead and nobody knows it yet."""
    monkeypatch.setattr(finish_guard, "ANSWER_WITHIN_S", 0.1)
    await guarded.guard.before_finish()
    guarded.broker.committed = guarded.broker.arrived = True
    assert (await guarded.guard.outcome()).runs_there


async def test_the_pause_is_said_until_the_broker_answers(guarded: Guarded) -> None:
    """A broker that is away must still hear it before it commits."""
    guarded.broker.silent = True
    await guarded.guard.before_finish()
    await until(lambda: len(guarded.broker.asked) >= 3)
    guarded.broker.silent = False
    await asyncio.sleep(0.15)
    said = len(guarded.broker.asked)
    assert {type(message) for message in guarded.broker.asked} == {GuestPaused}
    await asyncio.sleep(0.15)
    assert len(guarded.broker.asked) == said


async def test_a_pause_that_nobody_answers_delays_no_question(guarded: Guarded) -> None:
    """A broker of another release may have no answer to it: the recipient's is settled all the same."""
    answer = guarded.broker.answer

    def answers_queries(message: PortMessage) -> Answer | None:
        return None if isinstance(message, GuestPaused) else answer(message)

    guarded.broker.answer = answers_queries  # type: ignore[method-assign]  # one broker of a test
    await guarded.guard.before_finish()
    await until(lambda: len(guarded.broker.asked) >= 2)
    guarded.broker.committed = True
    guarded.guard.finish_answered(None)
    assert (await guarded.guard.outcome()).runs_there


# ---- the guest stays ----


async def test_the_guest_is_seen_running_before_the_transfer_ends(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirtd is being restarted and leaves the guest paused: that is found when it is back."""
    state, away = guarded.hypervisor.state, [None] * 3

    async def state_when_back(uuid: UUID) -> VmState | None:
        if away:
            away.pop()
            raise HypervisorError("look", "libvirtd is away")
        return await state(uuid)

    monkeypatch.setattr(guarded.hypervisor, "state", state_when_back)
    assert await guarded.guard.migration_ended("libvirtd has gone") == End(left=False, running=True)
    assert guarded.vm.state is VmState.RUNNING
    assert away == []


async def test_a_resume_that_fails_is_tried_again(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the guest runs."""
    resume, fails = guarded.hypervisor.resume, [None] * 2

    async def resume_later(uuid: UUID) -> None:
        if fails:
            fails.pop()
            raise HypervisorError("resume", "a job is under way")
        await resume(uuid)

    monkeypatch.setattr(guarded.hypervisor, "resume", resume_later)
    assert (await guarded.guard.migration_ended("failed")).running


async def test_a_guest_that_an_operator_paused_stays_paused(guarded: Guarded) -> None:
    """Nobody here resumes what somebody else has paused."""
    guarded.guard.guest_suspended()
    assert await guarded.guard.migration_ended("failed") == End(left=False, running=False)
    assert guarded.vm.ran_at_s == []


async def test_a_guest_that_is_gone_is_not_waited_for(guarded: Guarded) -> None:
    """Its owner powered it off meanwhile."""
    del guarded.hypervisor.vms[VM]
    assert await guarded.guard.migration_ended("failed") == End(left=False, running=False)


# ---- post-copy ----


async def test_post_copy_is_remembered_before_anybody_is_asked(guarded: Guarded) -> None:
    """And the broker is told that only it lets the guest run here again."""
    guarded.post_copy_answers = [QuestionError("no answer")] * 2
    guarded.guard.want_post_copy()
    while guarded.post_copy_asked < 3:
        assert guarded.journal.record.phase in {Phase.PREPARING, Phase.POST_COPY}
        await asyncio.sleep(0.01)
    assert guarded.journal.record.phase is Phase.POST_COPY
    assert isinstance(guarded.broker.asked[0], GuestPaused)


async def test_a_full_disk_puts_post_copy_off(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked before it is written down; it is tried again."""
    with monkeypatch.context() as patched:
        guarded.full(patched, Phase.POST_COPY)
        guarded.guard.want_post_copy()
        await asyncio.sleep(0.05)
        assert guarded.post_copy_asked == 0
        assert guarded.broker.asked == []
    await until(lambda: guarded.post_copy_asked > 0)


async def test_post_copy_starts_when_it_is_granted(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no fence: neither side holds the whole guest."""

    async def start(uuid: UUID) -> None:
        assert uuid == VM
        assert guarded.journal.record.phase is Phase.POST_COPY

    monkeypatch.setattr(guarded.hypervisor, "start_post_copy", start)
    guarded.guard.want_post_copy()
    await until(lambda: guarded.guard.post_copy)
    assert await guarded.guard.before_finish() is None
    assert not guarded.vm.frozen
    guarded.broker.committed = True
    guarded.guard.finish_answered(None)
    assert (await guarded.guard.outcome()).runs_there
    assert guarded.vm.state is VmState.PAUSED, "libvirtd ends its own copy"


async def test_a_post_copy_that_libvirt_refuses_leaves_the_guest_fenced(guarded: Guarded) -> None:
    """The fake has none; QEMU's own switchover is faster."""
    guarded.guard.want_post_copy()
    await until(lambda: guarded.post_copy_asked >= 2)
    assert not guarded.guard.post_copy
    assert await guarded.guard.before_finish() is None
    assert guarded.vm.frozen


async def test_a_denied_post_copy_is_not_asked_for_again(guarded: Guarded) -> None:
    """The migration goes on without it."""
    guarded.post_copy_answers = [PostCopyDenied("the tenant cancelled")]
    guarded.guard.want_post_copy()
    await asyncio.sleep(0.1)
    assert guarded.post_copy_asked == 1


async def test_a_migration_that_fails_after_post_copy_was_wanted_asks_first(guarded: Guarded) -> None:
    """The broker may have committed: the guest stands still until it says."""
    guarded.post_copy_answers = [QuestionError("no answer")] * 1000
    guarded.broker.silent = True
    guarded.vm.state = VmState.RUNNING
    guarded.guard.want_post_copy()
    await until(lambda: guarded.post_copy_asked > 0)
    ending = asyncio.ensure_future(guarded.guard.migration_ended("lane lost"))
    await until(lambda: bool(guarded.doubts))
    assert guarded.vm.frozen
    assert not ending.done()
    guarded.guard.abort()
    assert await ending == End(left=False, running=True)
    assert not guarded.vm.frozen


async def test_an_older_word_of_the_ledger_does_not_undo_a_newer_one(guarded: Guarded) -> None:
    """Two brokers may answer in any order."""
    await guarded.guard.before_finish()
    for committed, epoch in ((True, 2), (False, 1)):
        guarded.broker.clients[0].deliver(
            SwitchoverState(port_id=guarded.port_id, committed=committed, owner="beta", epoch=epoch, ended=False)
        )
    guarded.broker.silent = True
    guarded.guard.finish_answered(None)
    assert (await guarded.guard.outcome()).runs_there
