"""What drives the machine: events one after another, results first, and no waiting for what will not come."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.state.journal import Journal, Phase, PortRecord, TransferJournal
from services.node_agent.switchover.vcpu_watch import VcpuWatch
from services.node_agent.transfers.machine import Donor, DonorPhase, Guest
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.ownership import Ownership, look_at_guest, store_phase
from shared.messages.porting import Side
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM, make_agreement


async def test_a_commands_result_is_heard_before_any_other_event() -> None:
    """Though the other one came first."""
    done: list[do.Command] = []

    async def perform(command: do.Command) -> ev.Event | None:
        done.append(command)
        match command:
            case do.Store():
                ownership.tell(ev.FinishAnswered(None))
                return ev.Stored()
            case do.Freeze():
                return ev.Frozen(fenced=True)
            case _:
                return None

    ownership = Ownership(Donor("alpha"), perform)
    await ownership.take(ev.FinishWanted())
    assert done == [do.Store(Phase.FINISH_PASSED), do.Freeze(), do.SayPaused(), do.PassFinish()]
    assert ownership.state.phase is DonorPhase.UNDECIDED


async def test_what_is_told_before_it_runs_is_heard_then() -> None:
    """A transfer may be stopped before it has begun."""

    async def perform(_: do.Command) -> None:
        return None

    ownership = Ownership(Donor("alpha"), perform)
    ownership.tell(ev.Aborted())
    running = asyncio.ensure_future(ownership.run())
    await asyncio.sleep(0.01)
    assert ownership.state.aborted
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_nobody_waits_for_a_machine_that_is_broken() -> None:
    """Its defect is raised where something was expected of it."""

    async def perform(_: do.Command) -> None:
        raise RuntimeError("a defect")

    ownership = Ownership(Donor("alpha"), perform)
    running = asyncio.ensure_future(ownership.run())
    await asyncio.sleep(0)
    ownership.tell(ev.FinishWanted())
    with pytest.raises(RuntimeError, match="a defect"):
        await ownership.until(asyncio.get_running_loop().create_future())
    await asyncio.gather(running, return_exceptions=True)


async def test_what_a_command_brings_is_waited_for() -> None:
    """While the machine runs, or before."""

    async def perform(_: do.Command) -> None:
        return None

    ownership = Ownership(Donor("alpha"), perform)
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(3)
    assert await ownership.until(future) == 3
    running = asyncio.ensure_future(ownership.run())
    await asyncio.sleep(0)
    assert await ownership.until(future) == 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_phase_is_stored_or_the_reason_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is an answer; what this process believes stays what the next one reads."""
    agreement = make_agreement(tmp_path / "x.raw", domain_xml=DOMAIN % "/a.raw")
    store = Journal(tmp_path / "ports").open()
    journal = TransferJournal(store, PortRecord(side=Side.OUTBOUND, agreement=agreement))
    assert store_phase(journal.enter, Phase.TRANSFERRING) == ev.Stored()

    def full(_: PortRecord) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "store", full)
    assert store_phase(journal.enter, Phase.FINISH_PASSED) == ev.StoreFailed("[Errno 28] No space left on device")
    assert journal.record.phase is Phase.TRANSFERRING


async def test_a_look_at_the_guest_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is "unknown"."""
    hypervisor = FakeHypervisor()
    assert await look_at_guest(hypervisor, VM) == ev.LibvirtSaid(Guest.NOT_THERE)
    hypervisor.add(DOMAIN % "/a.raw", state=VmState.PAUSED)
    assert await look_at_guest(hypervisor, VM) == ev.LibvirtSaid(Guest.PAUSED)
    hypervisor.let_run(VM, hypervisor.vms[VM])
    hypervisor.vms[VM].state = VmState.PAUSED
    assert await look_at_guest(hypervisor, VM) == ev.LibvirtSaid(Guest.PAUSED, ran=True)
    hypervisor.vms[VM].left_behind = True
    assert await look_at_guest(hypervisor, VM) == ev.LibvirtSaid(Guest.LEFT_BEHIND)

    async def away(uuid: UUID) -> VmState | None:
        raise HypervisorError("look", f"no answer about {uuid}")

    monkeypatch.setattr(hypervisor, "state", away)
    assert await look_at_guest(hypervisor, VM) == ev.LibvirtSaid(Guest.UNKNOWN)
    assert VM in hypervisor.vms


async def test_while_libvirtd_is_away_the_process_is_looked_at() -> None:
    """Whether it has run since, or is gone."""
    hypervisor = FakeHypervisor()
    hypervisor.add(DOMAIN % "/a.raw", state=VmState.PAUSED)
    vcpus = VcpuWatch()
    vcpus.begin(await hypervisor.vcpu_time_ns(VM))
    hypervisor.kill_libvirtd()
    assert await look_at_guest(hypervisor, VM, vcpus) == ev.LibvirtSaid(Guest.UNKNOWN)
    hypervisor.let_run(VM, hypervisor.vms[VM])
    assert await look_at_guest(hypervisor, VM, vcpus) == ev.LibvirtSaid(Guest.UNKNOWN, ran=True)
    hypervisor.stop(VM)
    assert await look_at_guest(hypervisor, VM, vcpus) == ev.LibvirtSaid(Guest.UNKNOWN, ran=True)
    hypervisor.libvirtd_up = True
    assert await look_at_guest(hypervisor, VM, vcpus) == ev.LibvirtSaid(Guest.NOT_THERE)


async def test_of_a_guest_that_is_gone_the_hook_knows_why() -> None:
    """Of one that is there, it knows nothing; without a libvirtd nobody knows whether it is gone."""
    hypervisor = FakeHypervisor()
    hypervisor.add(DOMAIN % "/a.raw", state=VmState.PAUSED, persistent=False)
    assert await look_at_guest(hypervisor, VM, None, lambda: True) == ev.LibvirtSaid(Guest.PAUSED)
    hypervisor.stop(VM)
    assert await look_at_guest(hypervisor, VM, None, lambda: True) == ev.LibvirtSaid(Guest.NOT_THERE, ran=True)
    assert await look_at_guest(hypervisor, VM, None, lambda: False) == ev.LibvirtSaid(Guest.NOT_THERE)
    hypervisor.kill_libvirtd()
    assert await look_at_guest(hypervisor, VM, None, lambda: True) == ev.LibvirtSaid(Guest.UNKNOWN)
