"""The guard of Finish at the donor: fence first, remember second, and no verdict without the broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.state.journal import Journal, Phase, PortRecord, TransferJournal
from services.node_agent.switchover import finish_guard
from services.node_agent.switchover.finish_guard import DonorFinishGuard
from services.node_agent.switchover.verdict import Verdict
from shared.messages.porting import Side
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM, FakeBroker, make_agreement


class Guarded:
    """A paused guest, all of which was sent; the clock stands at 7 s."""

    def __init__(self, folder: Path) -> None:
        agreement = make_agreement(folder / "x.raw", domain_xml=DOMAIN % "/a.raw")
        self.hypervisor = FakeHypervisor()
        self.hypervisor.add(DOMAIN % "/a.raw", state=VmState.PAUSED)
        self.vm = self.hypervisor.vms[VM]
        self.journal = TransferJournal(
            Journal(folder / "ports").open(), PortRecord(side=Side.OUTBOUND, agreement=agreement)
        )
        self.broker = FakeBroker(agreement.port_id)
        self.doubts: list[str] = []

        async def in_doubt(reason: str) -> None:
            self.doubts.append(reason)

        self.guard = DonorFinishGuard(
            agreement,
            hypervisor=self.hypervisor,
            broker=self.broker.client(),
            journal=self.journal,
            in_doubt=in_doubt,
            clock=lambda: 7.0,
        )


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


async def test_the_guest_is_fenced_and_finish_remembered(guarded: Guarded) -> None:
    """Before Finish goes out."""
    await guarded.guard.before_finish()
    assert guarded.guard.passed
    assert guarded.vm.frozen
    assert guarded.journal.record.phase is Phase.FINISH_PASSED
    assert guarded.guard.start_fence.closed


async def test_post_copy_needs_no_fence(guarded: Guarded) -> None:
    """Neither side holds the whole guest; there is nothing to freeze, nor to thaw."""
    guarded.guard.post_copy = True
    await guarded.guard.before_finish()
    assert not guarded.vm.frozen
    guarded.vm.frozen = True
    await guarded.guard.lift_fence()
    assert guarded.vm.frozen


async def test_a_good_answer_settles_it_at_once(guarded: Guarded) -> None:
    """The broker need not be asked; the time is remembered for the downtime."""
    assert await guarded.guard.after_finish(None) is Verdict.RUNS_THERE
    assert (guarded.guard.verdict, guarded.guard.settled_at_s) == (Verdict.RUNS_THERE, 7.0)
    assert guarded.broker.asked == []


async def test_a_failed_finish_is_settled_by_the_ledger(guarded: Guarded) -> None:
    """Nothing was committed: the guest runs here."""
    assert await guarded.guard.after_finish("out of memory") is Verdict.RUNS_HERE
    assert guarded.guard.settled_at_s is None
    assert len(guarded.broker.asked) == 1


async def test_a_lost_answer_waits_until_the_ledger_decides(guarded: Guarded) -> None:
    """Committed, but the recipient has not said that it runs: that is no verdict yet."""
    guarded.broker.committed = True
    waiting = asyncio.ensure_future(guarded.guard.outcome_unknown("lane lost"))
    async with asyncio.timeout(10):
        await guarded.broker.was_asked.wait()
        assert guarded.doubts == ["lane lost"]
        assert not waiting.done()
        guarded.broker.arrived = True
        assert await waiting is Verdict.RUNS_THERE


async def test_an_abort_is_heard_while_the_broker_is_silent(guarded: Guarded) -> None:
    """It says that the guest runs here."""
    guarded.broker.silent = True
    waiting = asyncio.ensure_future(guarded.guard.outcome_unknown("lane lost"))
    async with asyncio.timeout(10):
        await guarded.broker.was_asked.wait()
        guarded.guard.aborted.set()
        assert await waiting is Verdict.RUNS_HERE


async def test_the_broker_is_asked_when_the_answer_is_late(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane may be dead and nobody knows it yet."""
    monkeypatch.setattr(finish_guard, "ANSWER_WITHIN_S", 0.01)
    guarded.broker.committed = guarded.broker.arrived = True
    async with asyncio.timeout(10):
        assert await guarded.guard.ask_broker() is Verdict.RUNS_THERE


async def test_a_fence_that_cannot_be_lifted_is_no_error(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirtd must get the verdict all the same; a fence that can is lifted."""
    await guarded.guard.before_finish()

    async def fails(uuid: object) -> None:
        raise HypervisorError("thaw", f"no process of {uuid}")

    with monkeypatch.context() as patched:
        patched.setattr(guarded.hypervisor, "thaw", fails)
        await guarded.guard.lift_fence()
    assert guarded.vm.frozen
    await guarded.guard.lift_fence()
    assert not guarded.vm.frozen
