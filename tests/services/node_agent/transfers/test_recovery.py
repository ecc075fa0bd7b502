"""Recovery of one transfer after a restart: each phase ends safely, and only what the journal lists is removed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.state.journal import Journal, Kind, Phase, PortRecord, TransferJournal
from services.node_agent.switchover.start_fence import StartFence
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.port_network import JoinedNetworks
from services.node_agent.transfers.recovery import CODE, Recovery
from shared.messages.porting import InboundFinished, ServiceChangeAgreement, Side
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM, FakeBroker, make_agreement


class Network(JoinedNetworks):
    """Hears which transfers were left half way."""

    def __init__(self) -> None:
        self.left: list[tuple[Side, UUID]] = []

    def resumed(self, side: Side, agreement: ServiceChangeAgreement) -> None:
        self.left.append((side, agreement.port_id))


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
            self.hypervisor.add(DOMAIN % self.disk, state=state, persistent=side is Side.OUTBOUND)
        self.broker = FakeBroker(agreement.port_id)
        self.doubts: list[str] = []
        self.boot = ""
        self.network = Network()

        async def in_doubt(reason: str) -> None:
            self.doubts.append(reason)

        self.recovery = Recovery(
            self.journal,
            hypervisor=self.hypervisor,
            broker=self.broker.client(),
            in_doubt=in_doubt,
            look_again_s=0.01,
            boot_id=lambda: self.boot,
            network=self.network,
        )

    async def failure(self) -> TransferError:
        """Why the transfer failed."""
        with pytest.raises(TransferError) as caught:
            await self.recovery.run()
        return caught.value


async def test_a_guest_that_was_leaving_runs_on(tmp_path: Path) -> None:
    """Before Finish the donor's copy is the only one; libvirt left it paused and frozen."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.TRANSFERRING, VmState.RUNNING)
    port_id = former.journal.record.port_id
    error = await former.failure()
    assert (error.code, error.guest_running) == (CODE, True)
    assert former.doubts == []
    assert former.network.left == [(Side.OUTBOUND, port_id)]


async def test_a_guest_that_stays_may_be_started_here(tmp_path: Path) -> None:
    """The ledger says so: the fence against starts is opened, autostart is as before."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.FINISH_PASSED, VmState.PAUSED)
    fence = StartFence(former.hypervisor, former.journal)
    await fence.hold_autostart(is_on=True)
    fence.close("x")
    former.broker.ended = True
    assert (await former.failure()).guest_running
    assert not fence.closed
    assert former.hypervisor.vms[VM].autostart


async def test_a_guest_that_has_left_may_not_be_started_here(tmp_path: Path) -> None:
    """The fence outlives the transfer."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.FINISH_PASSED, VmState.PAUSED)
    fence = StartFence(former.hypervisor, former.journal)
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
        former.recovery.abort()
        assert (await recovering).guest_running


async def test_a_guest_that_arrived_stays(tmp_path: Path) -> None:
    """Only Finish starts it, so the switchover was committed; its disk stays, the directory of its sockets goes."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.FINISH_PASSED, VmState.RUNNING)
    former.journal.will_create(Kind.DISK, str(former.disk))
    sockets = tmp_path / "run"
    sockets.mkdir()
    former.journal.will_create(Kind.DIRECTORY, str(sockets))
    message = await former.recovery.run()
    assert not sockets.exists()
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


@pytest.mark.parametrize("phase", [Phase.FINISH_PASSED, Phase.POST_COPY])
async def test_a_guest_that_may_be_elsewhere_is_fenced_before_anybody_is_asked(tmp_path: Path, phase: Phase) -> None:
    """This host was rebooted, and has started its copy again; or the former process never fenced it."""
    former = Restarted(tmp_path, Side.OUTBOUND, phase, VmState.RUNNING)
    former.broker.silent = True
    recovering = asyncio.ensure_future(former.failure())
    async with asyncio.timeout(10):
        await former.broker.was_asked.wait()
        assert former.hypervisor.vms[VM].frozen
        former.broker.silent = False
        former.broker.committed = former.broker.arrived = True
        assert not (await recovering).guest_running
    assert former.hypervisor.vms[VM].state is VmState.SHUT_OFF


async def test_a_guest_is_not_resumed_after_post_copy_was_wanted(tmp_path: Path) -> None:
    """The broker may have committed: nothing runs here until it says so."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.POST_COPY, VmState.PAUSED)
    former.broker.committed = True
    recovering = asyncio.ensure_future(former.failure())
    async with asyncio.timeout(10):
        await former.broker.was_asked.wait()
        await asyncio.sleep(0.1)
        assert former.hypervisor.vms[VM].ran_at_s == []
        former.broker.committed, former.broker.ended = False, True
        assert (await recovering).guest_running


async def test_a_guest_that_is_given_back_is_seen_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirtd is being restarted: the recovery ends when the guest runs, not with one look."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.RETURNING, VmState.PAUSED)
    resume, away = former.hypervisor.resume, [None] * 3

    async def resume_later(uuid: UUID) -> None:
        if away:
            away.pop()
            raise HypervisorError("resume", "libvirtd is away")
        await resume(uuid)

    monkeypatch.setattr(former.hypervisor, "resume", resume_later)
    async with asyncio.timeout(10):
        assert (await former.failure()).guest_running
    assert away == []


async def test_a_guest_that_an_operator_had_paused_stays_so(tmp_path: Path) -> None:
    """Before the port."""
    former = Restarted(tmp_path, Side.OUTBOUND, Phase.PREPARING, VmState.PAUSED)
    former.recovery = Recovery(
        TransferJournal(Journal(tmp_path / "ports"), former.journal.record.model_copy(update={"was_running": False})),
        hypervisor=former.hypervisor,
        broker=former.broker.client(),
        in_doubt=lambda _: asyncio.sleep(0),
    )
    assert not (await former.failure()).guest_running
    assert former.hypervisor.vms[VM].ran_at_s == []


@pytest.mark.parametrize("state", [None, VmState.SHUT_OFF])
async def test_what_may_have_run_is_kept(tmp_path: Path, state: VmState | None) -> None:
    """Finish was passed, and the guest is off: whether it ran is not known, so its disk stays."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.FINISH_PASSED, state)
    former.journal.will_create(Kind.DISK, str(former.disk))
    async with asyncio.timeout(10):
        error = await former.failure()
    assert (error.code, error.guest_running) == (CODE, False)
    assert former.disk.exists()
    assert former.journal.record.phase is Phase.KEPT


async def test_a_paused_guest_is_neither_kept_nor_removed_until_there_is_a_proof(tmp_path: Path) -> None:
    """It may have run: an I/O error, an operator's suspend. Then it runs again."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.FINISH_PASSED, VmState.PAUSED)
    former.journal.will_create(Kind.DISK, str(former.disk))
    recovering = asyncio.ensure_future(former.recovery.run())
    await asyncio.sleep(0.1)
    assert not recovering.done()
    former.hypervisor.vms[VM].state = VmState.RUNNING
    async with asyncio.timeout(10):
        assert isinstance(await recovering, InboundFinished)
    assert former.disk.exists()


async def test_a_question_alone_keeps_nothing(tmp_path: Path) -> None:
    """Finish was held, so the guest has never run: what was made for it goes, whatever the broker says later."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.SWITCHOVER_ASKED, VmState.PAUSED)
    former.broker.silent = True
    former.journal.will_create(Kind.DISK, str(former.disk))
    former.journal.will_create(Kind.DOMAIN, str(VM))
    assert not (await former.failure()).guest_running
    assert not former.disk.exists()
    assert former.hypervisor.vms == {}


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
        assert isinstance(await former.recovery.run(), InboundFinished)
    assert calls == 3


async def test_an_incomplete_guest_is_gone_before_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this word the donor may run its copy."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.OPEN, VmState.PAUSED)
    former.journal.will_create(Kind.DOMAIN, str(VM))
    destroy, away = former.hypervisor.destroy_created, [None] * 3

    async def destroy_later(uuid: UUID, *, disks: tuple[str, ...]) -> None:
        if away:
            away.pop()
            raise HypervisorError("destroy", "libvirtd is away")
        await destroy(uuid, disks=disks)

    monkeypatch.setattr(former.hypervisor, "destroy_created", destroy_later)
    async with asyncio.timeout(10):
        await former.failure()
    assert away == []
    assert former.hypervisor.vms == {}


async def test_another_vm_of_the_same_uuid_is_not_destroyed(tmp_path: Path) -> None:
    """It came since: this host's own migration, or a restore. Its disks are not this port's."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.OPEN, None)
    former.hypervisor.add(DOMAIN % "/elsewhere/web.raw", persistent=False)
    former.journal.will_create(Kind.DISK, str(former.disk))
    former.journal.will_create(Kind.DOMAIN, str(VM))
    await former.failure()
    assert former.hypervisor.vms[VM].state is VmState.RUNNING
    assert not former.disk.exists()


async def test_a_guest_that_may_have_run_before_its_host_was_restarted(tmp_path: Path) -> None:
    """It is told as such, and what was made for it stays."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.FINISH_PASSED, None)
    former.boot = "another"
    former.journal.will_create(Kind.DISK, str(former.disk))
    error = await former.failure()
    assert (error.code, error.guest_running, error.may_have_run) == (CODE, False, True)
    assert former.disk.exists()


async def test_a_guest_that_was_noted_to_have_run(tmp_path: Path) -> None:
    """By the former process, in this boot of the host: it is told as such."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.FINISH_PASSED, None)
    former.journal.note_ran()
    assert (await former.failure()).may_have_run


async def test_a_proof_that_was_stored_is_told(tmp_path: Path) -> None:
    """The former process has not come to its answer; libvirt need not be asked again, and all is kept."""
    former = Restarted(tmp_path, Side.INBOUND, Phase.KEPT, None)
    former.hypervisor.kill_libvirtd()
    error = await former.failure()
    assert (error.code, error.guest_running, error.may_have_run) == (CODE, False, False)
    assert former.disk.exists()
