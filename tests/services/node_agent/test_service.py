"""The whole node agent on a bus in memory: commands in, work done, words out."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from services.node_agent.dedup import file_scans
from services.node_agent.dedup.blocks import Scanned, scan
from services.node_agent.hypervisor.disk_images import allocated_bytes
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.state.given_away import ARRIVING, GivenAwayVm
from services.node_agent.state.journal import Phase, PortRecord
from services.node_agent.transfers import manager
from shared.domain import portable
from shared.messages.nodes import DescribeFailed, DescribeVm, EraseQuarantine, ExpectOutbound, VmDescribed
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    InboundFinished,
    InboundOpened,
    OpenInbound,
    OutboundFinished,
    OutboundStarted,
    ProvisionVm,
    QuerySwitchover,
    Side,
    SwitchoverGranted,
    TransferAborted,
    TransferFailed,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import PortLimits, PortProgressed, TransferPhase
from shared.messages.vm import VmState
from shared.parties import BROKER, donor, recipient
from tests.support.node_world import ALPHA, BETA, World
from tests.support.transfer_pair import BENEATH, VM

DONOR, RECIPIENT = donor("alpha"), recipient("beta")


async def test_a_port_from_command_to_erased_disks(world: World) -> None:
    """The guest leaves alpha, runs at beta, is provisioned; alpha's copy is disconnected, quarantined and erased."""
    port_id = world.agreement.port_id
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    figures = await world.hear(DONOR, OutboundFinished)
    assert figures.memory_bytes == len(world.memory)
    assert await world.hear(DONOR, OutboundStarted)
    assert (await world.hear(BROKER, PortProgressed)).port_id == port_id
    assert world.beta.hypervisor.vms[VM].memory == world.memory

    provision = ProvisionVm(
        port_id=port_id,
        vm_uuid=VM,
        autostart=True,
        donor_xml=world.domain_xml,
        lasting_xml=world.agreement.domain_xml,
    )
    await world.say(RECIPIENT, BETA, provision)
    assert (await world.hear(RECIPIENT, VmProvisioned)).identity_differences == ()
    arrived = world.beta.hypervisor.vms[VM]
    assert (arrived.persistent, arrived.autostart, arrived.state) == (True, True, VmState.RUNNING)

    await world.say(DONOR, ALPHA, DisconnectVm(port_id=port_id, vm_uuid=VM))
    gone = await world.hear(DONOR, VmDisconnected)
    assert VM not in world.alpha.hypervisor.vms
    (kept,) = gone.quarantined_disks
    assert not world.source.exists()
    assert allocated_bytes(kept) > 0

    await world.say(DONOR, ALPHA, EraseQuarantine(port_id=port_id))
    assert (await world.hear(DONOR, DisksErased)).erased_bytes > 0
    with pytest.raises(OSError, match="No such file"):
        allocated_bytes_or_raise(kept)
    ((record,), damaged) = world.alpha.journal.load()
    assert (record.is_erased, record.quarantined_disks, damaged) == (True, (), [])
    # Its own definition is gone, but a restored one would not be started either.
    assert world.alpha.journal.given_away.given_by(VM, port_id)


def allocated_bytes_or_raise(path: str) -> None:
    """Open it."""
    with open(path, "rb"):
        pass


async def test_what_a_disk_lay_on_is_neither_put_away_nor_erased(world: World) -> None:
    """A base image at the donor is other VMs', too; it is read when the VM is described."""
    base = world.source.parent / "base.raw"
    base.write_bytes(b"an operating system")
    vm = world.alpha.hypervisor.vms[VM]
    vm.domain_xml = vm.domain_xml.replace("type='raw'", "type='qcow2'").replace(
        "<target", f"{BENEATH % base}<target", 1
    )
    await world.say(DONOR, ALPHA, DescribeVm(port_id=world.agreement.port_id, vm_uuid=VM))
    await world.hear(DONOR, VmDescribed)
    await world.start_port()
    await world.hear(DONOR, OutboundFinished)
    await world.over(world.alpha)
    assert len(list((world.alpha.settings.state_dir / "indexes").glob("*.image"))) == 1
    await world.say(DONOR, ALPHA, DisconnectVm(port_id=world.agreement.port_id, vm_uuid=VM))
    gone = await world.hear(DONOR, VmDisconnected)
    assert gone.quarantined_disks == (f"{world.source}.{world.agreement.port_id}.quarantine",)
    await world.say(DONOR, ALPHA, EraseQuarantine(port_id=world.agreement.port_id))
    await world.hear(DONOR, DisksErased)
    assert base.read_bytes() == b"an operating system"


async def test_a_vm_that_leaves_is_fenced_before_finish(world: World) -> None:
    """While the ledger is silent: this host would not boot the VM, and libvirt's hook would refuse it."""
    world.ledger.silent = True
    world.alpha.hypervisor.vms[VM].autostart = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    assert not world.alpha.hypervisor.vms[VM].autostart
    assert world.alpha.journal.given_away.given_by(VM, world.agreement.port_id)


async def test_a_vm_that_stays_is_not_fenced(world: World) -> None:
    """The switchover was refused: it is started with its host again, and by whoever wants."""
    world.ledger.denies = "too late"
    world.alpha.hypervisor.vms[VM].autostart = True
    await world.start_port()
    assert (await world.hear(DONOR, TransferFailed)).guest_running
    assert world.alpha.hypervisor.vms[VM].autostart
    assert world.alpha.journal.given_away.get(VM) is None


async def test_a_vm_that_stays_after_a_crash_is_not_fenced(world: World) -> None:
    """The next agent asks the ledger; meanwhile the fence holds."""
    world.ledger.silent = True
    world.alpha.hypervisor.vms[VM].autostart = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    await world.alpha.kill()
    await world.alpha.start()
    await world.hear(BROKER, QuerySwitchover)
    assert world.alpha.journal.given_away.given_by(VM, world.agreement.port_id)
    world.ledger.ended = True
    world.ledger.silent = False
    await world.over(world.alpha)
    assert world.alpha.hypervisor.vms[VM].autostart
    assert world.alpha.journal.given_away.get(VM) is None


async def test_a_vm_comes_back_to_a_host_that_gave_it_away(world: World) -> None:
    """It is let in while it arrives; only when it is provisioned may it be started there by itself again."""
    given_away = world.beta.journal.given_away
    before = world.agreement.model_copy(update={"epoch": 1, "port_id": uuid4()})
    given_away.store(GivenAwayVm.by(before, since="", reason=""))
    mark = given_away.directory / f"{VM}{ARRIVING}"
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    assert mark.exists()
    world.ledger.silent = False
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    assert not mark.exists()
    assert given_away.get(VM) is not None
    provision = ProvisionVm(port_id=world.agreement.port_id, vm_uuid=VM, autostart=True, donor_xml=world.domain_xml)
    await world.say(RECIPIENT, BETA, provision)
    await world.hear(RECIPIENT, VmProvisioned)
    assert given_away.get(VM) is None


async def test_a_vm_does_not_come_back_by_an_old_port(world: World) -> None:
    """The epoch says which port is the later one."""
    given_away = world.beta.journal.given_away
    given_away.store(GivenAwayVm.by(world.agreement.model_copy(update={"port_id": uuid4()}), since="", reason=""))
    await world.say(RECIPIENT, BETA, OpenInbound(port_id=world.agreement.port_id, agreement=world.agreement))
    failed = await world.hear(RECIPIENT, TransferFailed)
    assert "took VM" in failed.detail
    assert VM not in world.beta.hypervisor.vms


async def test_commands_may_come_twice(world: World) -> None:
    """A repeated command is answered with what became of the first."""
    await world.start_port()
    await world.say(RECIPIENT, BETA, OpenInbound(port_id=world.agreement.port_id, agreement=world.agreement))
    await world.hear(RECIPIENT, InboundOpened, count=2)
    await world.hear(DONOR, OutboundFinished)
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    await world.say(RECIPIENT, BETA, OpenInbound(port_id=world.agreement.port_id, agreement=world.agreement))
    await world.hear(RECIPIENT, InboundFinished, count=2)
    assert len(world.beta.hypervisor.vms) == 1


async def test_an_abort_is_answered_by_both_transfers(world: World) -> None:
    """In the memory phase: the guest runs on, beta is clean, no failure is reported beside the abort."""
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    for agent, node, side in ((DONOR, ALPHA, Side.OUTBOUND), (RECIPIENT, BETA, Side.INBOUND)):
        await world.say(agent, node, AbortTransfer(port_id=world.agreement.port_id, side=side, reason="x"))
    assert (await world.hear(DONOR, TransferAborted)).guest_running
    inbound = await world.hear(RECIPIENT, TransferAborted)
    assert (inbound.guest_running, inbound.left_overs) == (False, ())
    assert world.alpha.hypervisor.vms[VM].state is VmState.RUNNING
    assert list(world.beta.settings.image_dir.iterdir()) == []
    assert world.beta.journal.load() == world.alpha.journal.load() == ([], [])


async def test_an_abort_before_the_window(world: World) -> None:
    """While seeding runs both transfers end at once; the donor has said that it began, and how far it is."""
    start = datetime.now(UTC) + timedelta(hours=1)
    seeded = {"window_start": start, "limits": PortLimits(window_start=start, seed=True)}
    world.agreement = world.agreement.model_copy(update=seeded)
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    assert (await world.hear(BROKER, PortProgressed)).phase is TransferPhase.SEEDING
    for agent, node, side in ((DONOR, ALPHA, Side.OUTBOUND), (RECIPIENT, BETA, Side.INBOUND)):
        await world.say(agent, node, AbortTransfer(port_id=world.agreement.port_id, side=side, reason="x"))
    assert (await world.hear(DONOR, TransferAborted)).guest_running
    inbound = await world.hear(RECIPIENT, TransferAborted)
    assert (inbound.guest_running, inbound.left_overs) == (False, ())
    assert world.alpha.hypervisor.vms[VM].ran_at_s == []
    assert not world.beta.hypervisor.prepared.is_set()
    assert list(world.beta.settings.image_dir.iterdir()) == []
    assert world.beta.journal.load() == world.alpha.journal.load() == ([], [])


async def test_an_abort_of_nothing_is_answered(world: World) -> None:
    """Where nothing is under way nothing is left."""
    await world.say(RECIPIENT, BETA, AbortTransfer(port_id=world.agreement.port_id, side=Side.INBOUND, reason="x"))
    assert not (await world.hear(RECIPIENT, TransferAborted)).guest_running


async def test_an_abort_that_is_too_late_hears_the_success(world: World) -> None:
    """What has happened is said again, and not undone."""
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    await world.say(RECIPIENT, BETA, AbortTransfer(port_id=world.agreement.port_id, side=Side.INBOUND, reason="x"))
    await world.hear(RECIPIENT, InboundFinished, count=2)
    assert world.beta.hypervisor.vms[VM].state is VmState.RUNNING


async def test_a_failure_is_reported_with_the_guests_state(world: World) -> None:
    """Each transfer says what failed and whether the guest runs on its side."""
    world.beta.hypervisor.fail_prepare = "no machine type"
    await world.start_port()
    outbound, inbound = await world.hear(DONOR, TransferFailed), await world.hear(RECIPIENT, TransferFailed)
    assert (outbound.side, outbound.guest_running) == (Side.OUTBOUND, True)
    assert "no machine type" in outbound.detail
    assert (inbound.side, inbound.guest_running) == (Side.INBOUND, False)


async def test_a_full_disk_after_the_arrival_undoes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest runs here and the ledger says so; that it cannot be written down yet is retried, and told then."""
    monkeypatch.setattr(manager, "STORE_AGAIN_S", 0.01)
    store, full = world.beta.journal.store, [None] * 3

    def store_when_there_is_room(record: PortRecord) -> None:
        if record.phase is Phase.DONE and full:
            full.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        store(record)

    monkeypatch.setattr(world.beta.journal, "store", store_when_there_is_room)
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    assert full == []
    assert world.beta.hypervisor.vms[VM].state is VmState.RUNNING
    assert [path.name for path in world.beta.settings.image_dir.iterdir()] == ["web.raw"]
    assert world.beta.journal.load()[0][0].phase is Phase.DONE


@pytest.mark.parametrize("state", [VmState.PAUSED, VmState.SHUT_OFF])
async def test_a_repeated_grant_removes_no_arrived_guest(world: World, state: VmState) -> None:
    """Whatever became of the guest since its arrival (an operator's suspend, its own power-off), it is kept."""
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    world.beta.hypervisor.vms[VM].state = state
    await world.say(BROKER, BETA, SwitchoverGranted(port_id=world.agreement.port_id, epoch=2))
    await world.hear(RECIPIENT, InboundFinished, count=2)
    assert world.beta.hypervisor.vms[VM].state is state
    assert (world.beta.settings.image_dir / "web.raw").exists()


async def test_an_abort_while_libvirt_is_away_is_answered_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown is not "no": the broker would give the VM to the other side on that word."""
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    state, away = world.alpha.hypervisor.state, [None] * 2

    async def state_when_back(uuid: UUID) -> VmState | None:
        if away:
            away.pop()
            raise HypervisorError("look at the VM", "libvirtd is away")
        return await state(uuid)

    monkeypatch.setattr(world.alpha.hypervisor, "state", state_when_back)
    await world.say(DONOR, ALPHA, AbortTransfer(port_id=world.agreement.port_id, side=Side.OUTBOUND, reason="x"))
    assert (await world.hear(DONOR, TransferAborted)).guest_running
    assert away == []


async def test_a_grant_out_of_the_blue_starts_nothing(world: World) -> None:
    """A node that has no transfer of the port says finally that the guest does not run there."""
    await world.say(BROKER, BETA, SwitchoverGranted(port_id=world.agreement.port_id, epoch=2))
    failed = await world.hear(RECIPIENT, TransferFailed)
    assert (failed.code, failed.guest_running) == ("not_running_here", False)
    assert world.beta.hypervisor.vms == {}


async def test_a_live_vm_is_described(world: World) -> None:
    """The identity bundle holds description, XML and versions."""
    await world.say(DONOR, ALPHA, DescribeVm(port_id=world.agreement.port_id, vm_uuid=VM))
    identity = (await world.hear(DONOR, VmDescribed)).identity
    assert (identity.vm.uuid, identity.vm.name, identity.node) == (VM, "web", "alpha-1")
    assert identity.domain_xml == portable(world.domain_xml)


async def test_a_vm_that_is_to_leave_is_read_ahead(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the port begins, which then goes its way."""
    loop, scanned = asyncio.get_running_loop(), asyncio.Queue[Path]()

    def watched(path: Path, *, limit: int, stopped: Callable[[], bool]) -> Scanned:
        loop.call_soon_threadsafe(scanned.put_nowait, path)
        return scan(path, limit=limit, stopped=stopped)

    monkeypatch.setattr(file_scans, "scan", watched)
    await world.say(DONOR, ALPHA, ExpectOutbound(port_id=world.agreement.port_id, vm_uuid=VM))
    async with asyncio.timeout(10):
        assert await scanned.get() == world.source
    await world.start_port()
    await world.hear(DONOR, OutboundFinished)
    assert scanned.empty()


async def test_a_missing_vm_is_not_read_ahead(world: World) -> None:
    """Nothing comes of the hint, and nothing is said: the port itself will say."""
    missing = world.alpha.hypervisor.vms.pop(VM)
    await world.say(DONOR, ALPHA, ExpectOutbound(port_id=world.agreement.port_id, vm_uuid=VM))
    world.alpha.hypervisor.vms[VM] = missing
    await world.start_port()
    await world.hear(DONOR, OutboundFinished)


async def test_a_missing_vm_is_described_as_missing(world: World) -> None:
    """With a code."""
    world.alpha.hypervisor.vms.clear()
    await world.say(DONOR, ALPHA, DescribeVm(port_id=world.agreement.port_id, vm_uuid=VM))
    assert (await world.hear(DONOR, DescribeFailed)).code == "vm_not_found"


async def test_a_running_vm_is_not_disconnected(world: World) -> None:
    """Nothing is undefined under a guest that runs."""
    await world.say(DONOR, ALPHA, DisconnectVm(port_id=world.agreement.port_id, vm_uuid=VM))
    failed = await world.hear(DONOR, CompletionFailed)
    assert (failed.side, "running" in failed.detail) == (Side.OUTBOUND, True)
    assert world.source.exists()


async def test_a_port_of_another_node_is_rejected(world: World) -> None:
    """An agreement names its nodes."""
    await world.say(recipient("alpha"), ALPHA, OpenInbound(port_id=world.agreement.port_id, agreement=world.agreement))
    await world.broker.wait_idle()
    assert world.broker.dead[ALPHA][0].code == "wrong_node"


# ---- the agent dies ----


async def test_the_donors_agent_dies_in_the_memory_phase(world: World) -> None:
    """Its successor finds the guest running, removes what was made, and says so."""
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    await world.alpha.kill()
    world.alpha.hypervisor.memory_flows.set()
    await world.alpha.start()
    failed = await world.hear(DONOR, TransferFailed)
    assert (failed.code, failed.guest_running) == ("node_agent_restarted", True)
    assert world.alpha.hypervisor.vms[VM].state is VmState.RUNNING
    assert not (world.alpha.settings.run_dir / str(world.agreement.port_id)).exists()


async def test_the_donors_agent_dies_in_finish_and_the_guest_has_left(world: World) -> None:
    """libvirt wants to resume its copy, but it is frozen; the successor hears that it runs at beta, and destroys it."""
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    await world.alpha.kill()
    copy = world.alpha.hypervisor.vms[VM]
    assert (copy.state, copy.frozen) == (VmState.PAUSED, True)
    assert world.alpha.journal.load()[0][0].phase is Phase.FINISH_PASSED
    world.ledger.silent = False
    await world.hear(RECIPIENT, InboundFinished)
    world.ledger.arrived = True
    await world.alpha.start()
    # The first word is the doubt, the second the end.
    failed = await world.hear(DONOR, TransferFailed, count=2)
    assert not failed.guest_running
    assert copy.state is VmState.SHUT_OFF
    assert copy.ran_at_s == []
    assert world.beta.hypervisor.vms[VM].state is VmState.RUNNING


async def test_the_donors_agent_dies_in_finish_and_the_port_is_aborted(world: World) -> None:
    """The broker never committed: the successor lets the guest run on."""
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    await world.alpha.kill()
    await world.alpha.start()
    await world.say(DONOR, ALPHA, AbortTransfer(port_id=world.agreement.port_id, side=Side.OUTBOUND, reason="x"))
    assert (await world.hear(DONOR, TransferAborted)).guest_running
    assert world.alpha.hypervisor.vms[VM].state is VmState.RUNNING
    assert not world.alpha.hypervisor.vms[VM].frozen


async def test_the_recipients_agent_dies_while_finish_is_held(world: World) -> None:
    """libvirtd there destroys the incomplete guest; the successor removes its disk and says that it does not run."""
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    await world.beta.kill()
    await world.beta.start()
    failed = await world.hear(RECIPIENT, TransferFailed)
    assert (failed.code, failed.guest_running) == ("node_agent_restarted", False)
    assert world.beta.hypervisor.vms == {}
    assert list(world.beta.settings.image_dir.iterdir()) == []
    assert world.alpha.hypervisor.vms[VM].frozen


async def test_words_survive_a_bus_that_is_down(world: World) -> None:
    """What was to be said is said when the bus is back."""
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    world.broker.interrupt()
    world.alpha.transfers.abort(AbortTransfer(port_id=world.agreement.port_id, side=Side.OUTBOUND, reason="x"))
    await world.over(world.alpha)
    world.broker.restore()
    assert (await world.hear(DONOR, TransferAborted)).guest_running
