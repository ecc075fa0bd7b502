"""The recipient's shell: it asks, decides for the gate, and says what became of the guest only when that is certain."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.node_agent.hypervisor.fake_host import MigrationPhase
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.state.journal import Journal, Phase, PortRecord, TransferJournal
from services.node_agent.transfers.arrival_guard import Arrival, ArrivalGuard
from shared.messages.porting import RequestSwitchover, Side
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM, FakeBroker, make_agreement


class Guarded:
    """An incomplete guest at the recipient. `remains` is what each removal leaves, one by one."""

    def __init__(self, folder: Path) -> None:
        agreement = make_agreement(folder / "x.raw", domain_xml=DOMAIN % "/a.raw")
        self.hypervisor = FakeHypervisor()
        self.hypervisor.add(DOMAIN % "/a.raw", state=VmState.PAUSED, persistent=False)
        self.vm = self.hypervisor.vms[VM]
        self.journal = TransferJournal(
            Journal(folder / "ports").open(), PortRecord(side=Side.INBOUND, agreement=agreement)
        )
        self.broker = FakeBroker(agreement.port_id, needs_paused=False)
        self.remains: list[tuple[str, ...]] = []
        self.removals = 0
        self.boot = "first"
        self.guard = ArrivalGuard(
            self.journal,
            hypervisor=self.hypervisor,
            broker=self.broker.client(),
            remove=self.remove,
            look_again_s=0.01,
            boot_id=lambda: self.boot,
        )

    async def remove(self) -> tuple[str, ...]:
        """Removes nothing, and counts."""
        self.removals += 1
        return self.remains.pop(0) if self.remains else ()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    made = Guarded(tmp_path)
    running = asyncio.ensure_future(made.guard.run())
    async with asyncio.timeout(10):
        yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_granted_guest_arrives(guarded: Guarded) -> None:
    """Each step is in the journal before it is taken; two askers hear one answer."""
    first = asyncio.ensure_future(guarded.guard.ask_switchover())
    assert await guarded.guard.ask_switchover() is None
    assert await first is None
    assert [type(message) for message in guarded.broker.asked] == [RequestSwitchover]
    assert guarded.journal.record.phase is Phase.FINISH_PASSED
    assert not guarded.guard.over
    guarded.guard.finish_answered(None)
    assert (await guarded.guard.outcome()).arrival is Arrival.ARRIVED
    assert guarded.guard.arrived
    assert guarded.removals == 0


async def test_a_grant_for_post_copy_lets_no_guest_run_before_finish(guarded: Guarded) -> None:
    """The guest runs at the donor: only with Finish is it noted that it may run here. The broker is asked once."""
    assert await guarded.guard.ask_for_post_copy() is None
    assert await guarded.guard.ask_for_post_copy() is None
    phases = [guarded.journal.record.phase]
    assert await guarded.guard.ask_switchover() is None
    phases.append(guarded.journal.record.phase)
    assert phases == [Phase.SWITCHOVER_ASKED, Phase.FINISH_PASSED]
    assert [type(message) for message in guarded.broker.asked] == [RequestSwitchover]


async def test_a_granted_guest_whose_finish_never_comes_is_not_here(guarded: Guarded) -> None:
    """Its host's restart, or the donor's end, proves that it never ran: what was made for it stays until the abort."""
    assert await guarded.guard.ask_for_post_copy() is None
    guarded.guard.trouble("donor_left", "the donor's node agent ended the transfer")
    assert (await guarded.guard.outcome()).arrival is Arrival.NOT_HERE
    assert guarded.removals == 0
    denied = await guarded.guard.ask_switchover()
    assert denied is not None
    assert denied.code == "donor_left"


async def test_the_journal_says_that_the_broker_is_asked(guarded: Guarded) -> None:
    """While it does not answer."""
    guarded.broker.silent = True
    asking = asyncio.ensure_future(guarded.guard.ask_switchover())
    await guarded.broker.was_asked.wait()
    assert guarded.journal.record.phase is Phase.SWITCHOVER_ASKED
    guarded.guard.trouble("lane_failed", "gone")
    guarded.guard.stop()
    await asyncio.sleep(0.05)
    assert not asking.done()
    guarded.guard.abort()
    denied = await asking
    assert denied is not None
    assert denied.code == "cancelled"
    outcome = await guarded.guard.outcome()
    assert (outcome.arrival, outcome.code) == (Arrival.REMOVED, "lane_failed")


async def test_a_denied_guest_is_removed_when_libvirt_has_heard_it(guarded: Guarded) -> None:
    """The broker's reason is told."""
    guarded.broker.denies = "the tenant cancelled"
    denied = await guarded.guard.ask_switchover()
    assert denied is not None
    assert guarded.removals == 0
    guarded.guard.finish_answered("cancelled")
    outcome = await guarded.guard.outcome()
    assert (outcome.arrival, outcome.detail) == (Arrival.REMOVED, "the tenant cancelled")
    assert not outcome.error().guest_running


async def test_a_domain_that_cannot_be_ended_is_no_end(guarded: Guarded) -> None:
    """A file may stay, and is named."""
    guarded.remains = [("domain x", "disk y"), ("disk y",)]
    guarded.guard.trouble("lane_failed", "gone")
    outcome = await guarded.guard.outcome()
    assert (outcome.left_overs, guarded.removals) == (("disk y",), 2)


async def test_after_the_grant_only_a_proof_ends_it(guarded: Guarded) -> None:
    """And nothing is removed."""
    await guarded.guard.ask_switchover()
    guarded.guard.trouble("lane_failed", "gone")
    await asyncio.sleep(0.1)
    assert not guarded.guard.over
    del guarded.hypervisor.vms[VM]
    assert (await guarded.guard.outcome()).arrival is Arrival.NOT_HERE
    assert guarded.journal.record.phase is Phase.KEPT
    assert guarded.removals == 0


@pytest.mark.parametrize("given_back", [True, False])
async def test_an_abort_after_the_arrival_is_the_ledgers_matter(guarded: Guarded, *, given_back: bool) -> None:
    """It may be late; what was given back goes."""
    guarded.broker.committed, guarded.broker.epoch = not given_back, 3 if given_back else 2
    guarded.journal.enter(Phase.DONE)
    guarded.guard.restarted()
    guarded.guard.abort()
    expected = Arrival.REMOVED if given_back else Arrival.ARRIVED
    assert (await guarded.guard.outcome()).arrival is expected
    assert guarded.removals == int(given_back)


async def test_a_silent_ledger_removes_nothing(guarded: Guarded) -> None:
    """It is asked until it answers."""
    guarded.broker.silent = True
    guarded.journal.enter(Phase.DONE)
    guarded.guard.restarted()
    guarded.guard.abort()
    await guarded.broker.was_asked.wait()
    guarded.broker.was_asked.clear()
    await guarded.broker.was_asked.wait()
    assert guarded.removals == 0
    assert not guarded.guard.over


async def test_a_repeated_grant_hears_what_became_of_it(guarded: Guarded) -> None:
    """From the journal, without a look at libvirt."""
    guarded.journal.enter(Phase.KEPT)
    guarded.guard.restarted()
    guarded.guard.granted_again()
    assert (await guarded.guard.outcome()).arrival is Arrival.NOT_HERE


async def test_the_boot_is_stored_with_finish(guarded: Guarded) -> None:
    """By which the next process knows whether the host was restarted since."""
    assert await guarded.guard.ask_switchover() is None
    assert (guarded.journal.record.phase, guarded.journal.record.boot_id) == (Phase.FINISH_PASSED, "first")


@pytest.mark.parametrize(("boot", "arrival"), [("first", Arrival.NOT_HERE), ("second", Arrival.MAY_HAVE_RUN)])
async def test_a_guest_that_is_gone_after_a_restart(guarded: Guarded, boot: str, arrival: Arrival) -> None:
    """libvirtd ends only what does not run; a restart of the host ends everything."""
    guarded.journal.pass_finish("first")
    guarded.boot = boot
    guarded.hypervisor.stop(VM)
    guarded.guard.restarted()
    outcome = await guarded.guard.outcome()
    assert (outcome.arrival, guarded.removals) == (arrival, 0)
    error = outcome.error()
    assert (error.guest_running, error.may_have_run) == (False, arrival is Arrival.MAY_HAVE_RUN)


async def test_a_guest_that_dies_as_it_starts_has_run(guarded: Guarded) -> None:
    """libvirt's event says so; its answer to Finish is an error all the same."""
    assert await guarded.guard.ask_switchover() is None
    guarded.hypervisor.let_run(VM, guarded.vm)
    guarded.hypervisor.stop(VM)
    guarded.guard.finish_answered("QEMU is gone")
    assert (await guarded.guard.outcome()).arrival is Arrival.MAY_HAVE_RUN


async def test_a_guest_that_runs_and_ends_while_libvirtd_is_away_has_run(guarded: Guarded) -> None:
    """Nobody heard of its start; its process shows it, and the journal keeps that."""
    assert await guarded.guard.ask_switchover() is None
    guarded.hypervisor.kill_libvirtd()
    guarded.guard.finish_answered("this host's libvirtd ended the connection", hung_up=True)
    guarded.hypervisor.let_run(VM, guarded.vm)
    while not guarded.journal.record.may_have_run:  # noqa: ASYNC110  # a file
        await asyncio.sleep(0.01)
    guarded.hypervisor.stop(VM)
    guarded.hypervisor.start_libvirtd()
    assert (await guarded.guard.outcome()).arrival is Arrival.MAY_HAVE_RUN


async def test_a_copy_that_libvirtd_ends_when_it_is_back_has_not_run(guarded: Guarded) -> None:
    """It was there, and stood, all the time."""
    guarded.vm.phase = MigrationPhase.PREPARE
    assert await guarded.guard.ask_switchover() is None
    guarded.hypervisor.kill_libvirtd()
    guarded.guard.finish_answered("this host's libvirtd ended the connection", hung_up=True)
    await asyncio.sleep(0.05)
    guarded.hypervisor.start_libvirtd()
    assert (await guarded.guard.outcome()).arrival is Arrival.NOT_HERE
    assert not guarded.journal.record.may_have_run


async def test_what_cannot_be_noted_is_known_all_the_same(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: only the next process would not know."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(guarded.journal, "note_ran", full)
    assert await guarded.guard.ask_switchover() is None
    guarded.hypervisor.kill_libvirtd()
    guarded.guard.finish_answered("this host's libvirtd ended the connection", hung_up=True)
    guarded.hypervisor.stop(VM)
    await asyncio.sleep(0.05)
    guarded.hypervisor.start_libvirtd()
    assert (await guarded.guard.outcome()).arrival is Arrival.MAY_HAVE_RUN


@pytest.mark.parametrize(
    ("reason", "arrival"),
    [("shutdown", Arrival.MAY_HAVE_RUN), ("crashed", Arrival.MAY_HAVE_RUN), ("destroyed", Arrival.NOT_HERE)],
)
async def test_a_guest_that_ended_while_the_agent_was_away(guarded: Guarded, reason: str, arrival: Arrival) -> None:
    """libvirt's hook has written down why: what libvirtd ends, as its connection broke, has not run."""
    guarded.journal.pass_finish("first")
    (guarded.journal.given_away.directory / f"{VM}.ended").write_text(f"{reason}\n")
    guarded.hypervisor.stop(VM)
    guarded.guard.restarted()
    assert (await guarded.guard.outcome()).arrival is arrival
