"""Recovery of one transfer after a restart: each phase ends safely, and only what the journal lists is removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.state.journal import Journal, Kind, Phase, PortRecord, TransferJournal
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.recovery import CODE, Recovery, recover_when_possible
from shared.messages.porting import InboundFinished, Side
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM, FakeBroker, make_agreement


class Restarted:
    """A host and a journal as a former process left them."""

    def __init__(self, folder: Path, side: Side, phase: Phase, state: VmState | None) -> None:
        self.disk = folder / "x.raw"
        self.disk.touch()
        agreement = make_agreement(self.disk, domain_xml=DOMAIN % self.disk)
        record = PortRecord(side=side, agreement=agreement)
        self.journal = TransferJournal(Journal(folder / "ports").open(), record)
        self.journal.enter(phase)
        self.hypervisor = FakeHypervisor()
        if state is not None:
            self.hypervisor.add(DOMAIN % self.disk, state=state)
        self.broker = FakeBroker(agreement.port_id)
        self.doubts: list[str] = []

        async def in_doubt(reason: str) -> None:
            self.doubts.append(reason)

        self.recovery = Recovery(
            self.journal, hypervisor=self.hypervisor, broker=self.broker.client(), in_doubt=in_doubt
        )

    async def failure(self) -> TransferError:
        """Why the transfer failed."""
        with pytest.raises(TransferError) as caught:
            await self.recovery.run()
        return caught.value


async def test_a_guest_that_was_leaving_runs_on(tmp_path: Path) -> None:
    """Before Finish the donor's copy is the only one; libvirt left it paused and frozen."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.TRANSFERRING, VmState.RUNNING)
    error = await former.failure()
    assert (error.code, error.guest_running) == (CODE, True)
    assert former.doubts == []


async def test_a_guest_that_stays_may_be_started_here(tmp_path: Path) -> None:
    """The ledger says so: the fence against starts is opened, autostart is as before."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.FINISH_PASSED, VmState.PAUSED)
    fence = former.recovery.guard.start_fence
    await fence.hold_autostart(is_on=True)
    fence.close("x")
    former.broker.ended = True
    assert (await former.failure()).guest_running
    assert not fence.closed
    assert former.hypervisor.vms[VM].autostart


async def test_a_guest_that_has_left_may_not_be_started_here(tmp_path: Path) -> None:
    """The fence outlives the transfer."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.FINISH_PASSED, VmState.PAUSED)
    fence = former.recovery.guard.start_fence
    fence.close("x")
    former.broker.committed = former.broker.arrived = True
    await former.failure()
    assert fence.closed


async def test_a_guest_that_has_left_does_not_run_here(tmp_path: Path) -> None:
    """The broker says that it runs at the recipient: the copy is destroyed."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.FINISH_PASSED, VmState.PAUSED)
    former.broker.committed = former.broker.arrived = True
    error = await former.failure()
    assert (error.code, error.guest_running) == (CODE, False)
    assert former.hypervisor.vms[VM].state is VmState.SHUT_OFF
    assert len(former.doubts) == 1


async def test_an_abort_ends_the_doubt(tmp_path: Path) -> None:
    """The broker is silent; its abort lets the guest run on."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.FINISH_PASSED, VmState.RUNNING)
    former.broker.silent = True
    recovering = asyncio.ensure_future(former.failure())
    async with asyncio.timeout(10):
        await former.broker.was_asked.wait()
        former.recovery.guard.abort()
        assert (await recovering).guest_running


async def test_a_guest_that_arrived_stays(tmp_path: Path) -> None:
    """Only Finish starts it, so the switchover was committed; its disk stays."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.FINISH_PASSED, VmState.RUNNING)
    former.journal.will_create(Kind.DISK, str(former.disk))
    message = await former.recovery.run()
    assert message == InboundFinished(port_id=former.journal.record.port_id, epoch=2)
    assert former.disk.exists()


async def test_a_guest_that_did_not_arrive_leaves_nothing(tmp_path: Path) -> None:
    """The disk that was made for it is removed."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.OPEN, None)
    former.journal.will_create(Kind.DISK, str(former.disk))
    error = await former.failure()
    assert (error.code, error.guest_running) == (CODE, False)
    assert not former.disk.exists()
    assert former.journal.record.made == ()


async def test_recovery_waits_for_libvirt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may start after this agent."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.FINISH_PASSED, VmState.RUNNING)
    state, calls = former.hypervisor.state, 0

    async def state_later(uuid: object) -> VmState | None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise HypervisorError("look", "no connection")
        assert uuid == VM
        return await state(VM)

    monkeypatch.setattr(former.hypervisor, "state", state_later)
    async with asyncio.timeout(10):
        message = await recover_when_possible(former.recovery, retry_s=0.01)
    assert isinstance(message, InboundFinished)
    assert calls == 3
