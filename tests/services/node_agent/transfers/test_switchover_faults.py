"""Two whole node agents, and one fault at a step of the switchover: one copy runs, and none is lost."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.state.journal import Phase, PortRecord
from services.node_agent.transfers import manager
from shared.messages.porting import (
    AbortTransfer,
    InboundFinished,
    OutboundFinished,
    OutboundStarted,
    Side,
    SwitchoverGranted,
    TransferAborted,
    TransferFailed,
)
from shared.messages.vm import VmState
from shared.parties import BROKER, donor, recipient
from tests.support.node_world import ALPHA, BETA
from tests.support.transfer_pair import VM

if TYPE_CHECKING:
    from tests.support.node_world import NodeUnderTest, World

DONOR, RECIPIENT = donor("alpha"), recipient("beta")


def fill_state_dir(node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch, full: Callable[[PortRecord], bool]) -> None:
    """There is no room for some records."""
    store = node.journal.store

    def store_if_there_is_room(record: PortRecord) -> None:
        if full(record):
            raise OSError(errno.ENOSPC, "No space left on device")
        store(record)

    monkeypatch.setattr(node.journal, "store", store_if_there_is_room)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what several tasks bring about
            await asyncio.sleep(0.01)


async def test_the_donors_state_directory_is_full_at_finish(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest runs on, unfenced, and the broker hears so."""
    fill_state_dir(world.alpha, monkeypatch, lambda record: record.phase is Phase.FINISH_PASSED)
    await world.start_port()
    failed = await world.hear(DONOR, TransferFailed)
    assert (failed.guest_running, "No space left" in failed.detail) == (True, True)
    guest = world.alpha.hypervisor.vms[VM]
    assert (guest.state, guest.frozen) == (VmState.RUNNING, False)
    assert not world.ledger.committed
    assert (await world.hear(RECIPIENT, TransferFailed)).guest_running is False


async def test_the_donor_believes_the_ledger_and_not_the_recipient(world: World) -> None:
    """beta says that it runs the guest, and nothing is committed: alpha's copy stands, frozen, until the abort."""
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    # A recipient that needs no broker.
    await world.say(BROKER, BETA, SwitchoverGranted(port_id=world.agreement.port_id, epoch=2))
    await world.hear(RECIPIENT, InboundFinished)
    world.ledger.silent = False
    await asyncio.sleep(0.3)
    guest = world.alpha.hypervisor.vms[VM]
    assert (guest.state, guest.frozen, guest.ran_at_s) == (VmState.PAUSED, True, [])
    world.ledger.committed = True
    await world.hear(DONOR, OutboundFinished)
    assert guest.state is VmState.SHUT_OFF


async def test_the_copy_of_a_guest_that_has_left_is_never_thawed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thawed, it would carry out a resume that libvirtd may have queued, if this agent died a moment later."""

    thaw, thawed = world.alpha.hypervisor.thaw, list[UUID]()

    async def noted(uuid: UUID) -> None:
        thawed.append(uuid)
        await thaw(uuid)

    monkeypatch.setattr(world.alpha.hypervisor, "thaw", noted)
    await world.start_port()
    await world.hear(DONOR, OutboundFinished)
    assert thawed == []
    assert world.alpha.hypervisor.vms[VM].state is VmState.SHUT_OFF


async def test_the_donors_libvirtd_is_restarted_in_finish(world: World) -> None:
    """It cannot talk to the stopped QEMU, and changes nothing until that is killed: the port ends all the same."""
    guest = world.alpha.hypervisor.vms[VM]
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    world.alpha.hypervisor.kill_libvirtd()
    world.alpha.hypervisor.start_libvirtd()
    assert guest.unreachable
    world.ledger.silent = False
    await world.hear(RECIPIENT, InboundFinished)
    world.ledger.arrived = True
    await world.hear(DONOR, OutboundFinished)
    assert (guest.state, guest.ran_at_s) == (VmState.SHUT_OFF, [])
    assert world.beta.hypervisor.vms[VM].state is VmState.RUNNING


async def test_a_libvirtd_that_leaves_the_guest_paused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job failed, it was restarted, and does not answer for a while; the agent is restarted, too."""
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    guest, state, away = world.alpha.hypervisor.vms[VM], world.alpha.hypervisor.state, True

    async def state_when_back(uuid: UUID) -> VmState | None:
        if away:
            raise HypervisorError("look", "libvirtd is away")
        return await state(uuid)

    monkeypatch.setattr(world.alpha.hypervisor, "state", state_when_back)
    monkeypatch.setattr(world.alpha.hypervisor, "let_run", lambda *_: None)
    await world.alpha.transfers.stop(0.3)
    await world.alpha.kill()
    guest.state = VmState.PAUSED
    await world.alpha.start()
    await asyncio.sleep(0.3)
    assert guest.state is VmState.PAUSED
    monkeypatch.undo()
    away = False
    assert (await world.hear(DONOR, TransferFailed)).guest_running
    assert await world.alpha.hypervisor.state(VM) is VmState.RUNNING


async def test_the_donors_agent_dies_after_post_copy_was_wanted(world: World) -> None:
    """The broker may have committed: its successor fences the guest and asks, and resumes nothing by itself."""
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    await world.alpha.kill()
    record = world.alpha.journal.get(world.agreement.port_id, Side.OUTBOUND)
    assert record is not None
    world.alpha.journal.store(record.model_copy(update={"phase": Phase.POST_COPY}))
    guest = world.alpha.hypervisor.vms[VM]
    guest.state = VmState.PAUSED
    world.ledger.committed = True
    await world.alpha.start()
    assert (await world.hear(DONOR, TransferFailed)).code == "switchover_in_doubt"
    await asyncio.sleep(0.2)
    assert (guest.state, guest.frozen, guest.ran_at_s) == (VmState.PAUSED, True, [])
    world.ledger.committed = False
    await world.say(DONOR, ALPHA, AbortTransfer(port_id=world.agreement.port_id, side=Side.OUTBOUND, reason="x"))
    assert (await world.hear(DONOR, TransferAborted)).guest_running


async def test_a_vm_that_an_operator_suspended_before_the_port_stays_suspended(world: World) -> None:
    """The port fails, and nobody resumes what somebody else has paused; not the agent's successor either."""
    guest = world.alpha.hypervisor.vms[VM]
    guest.state = VmState.PAUSED
    await world.start_port()
    assert not (await world.hear(DONOR, TransferFailed)).guest_running
    await world.alpha.kill()
    record = world.alpha.journal.get(world.agreement.port_id, Side.OUTBOUND)
    assert record is not None
    world.alpha.journal.store(record.model_copy(update={"phase": Phase.PREPARING}))
    await world.alpha.start()
    await world.hear(DONOR, TransferFailed, count=2)
    assert (guest.state, guest.ran_at_s) == (VmState.PAUSED, [])


@pytest.mark.parametrize("state", [VmState.PAUSED, None])
async def test_the_recipients_agent_dies_before_the_arrival_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch, state: VmState | None
) -> None:
    """And the guest is paused, or has powered itself off: its disk, the only one that has what it wrote, stays."""
    monkeypatch.setattr(manager, "STORE_AGAIN_S", 0.01)
    fill_state_dir(world.beta, monkeypatch, lambda record: record.phase is Phase.DONE)
    await world.start_port()
    await until(lambda: VM in world.beta.hypervisor.vms and bool(world.beta.hypervisor.vms[VM].ran_at_s))
    await world.beta.kill()
    monkeypatch.undo()
    if state is None:
        del world.beta.hypervisor.vms[VM]
    else:
        world.beta.hypervisor.vms[VM].state = state
    await world.beta.start()
    image = world.beta.settings.image_dir / "web.raw"
    if state is None:
        failed = await world.hear(RECIPIENT, TransferFailed)
        assert (failed.code, failed.guest_running) == ("node_agent_restarted", False)
    else:
        # An operator has paused it: libvirt's reason says that it ran before.
        await world.hear(RECIPIENT, InboundFinished)
    assert image.exists()


async def test_the_recipients_agent_is_stopped_after_the_grant(world: World) -> None:
    """It waits for the arrival instead of destroying the guest."""
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    stopping = asyncio.ensure_future(world.beta.transfers.stop(10.0))
    await asyncio.sleep(0.1)
    world.ledger.silent = False
    await world.hear(RECIPIENT, InboundFinished)
    await stopping
    assert world.beta.hypervisor.vms[VM].state is VmState.RUNNING
