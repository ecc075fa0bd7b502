"""Ports whose transfer has ended here: what the broker asks about them, and what they left behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.state.journal import Kind, Phase, PortRecord, TransferJournal
from services.node_agent.transfers import housekeeping
from shared.messages.porting import (
    AbortTransfer,
    InboundFinished,
    OpenInbound,
    OutboundFinished,
    Side,
    SwitchoverGranted,
    TransferAborted,
    TransferFailed,
)
from shared.messages.switchover import CopyState, QueryCopy
from shared.messages.vm import VmState
from shared.parties import BROKER, donor, recipient
from tests.support.node_world import ALPHA, BETA
from tests.support.transfer_pair import VM

if TYPE_CHECKING:
    from uuid import UUID

    from tests.support.node_world import World

DONOR, RECIPIENT = donor("alpha"), recipient("beta")


async def abort_inbound(world: World) -> None:
    """The broker gives up the recipient's side."""
    await world.say(RECIPIENT, BETA, AbortTransfer(port_id=world.agreement.port_id, side=Side.INBOUND, reason="x"))


async def test_what_could_not_start_is_kept_until_the_abort(world: World) -> None:
    """Then it is removed, and the record with it."""
    world.beta.hypervisor.fail_finish = "no such CPU"
    await world.start_port()
    failed = await world.hear(RECIPIENT, TransferFailed)
    assert (failed.code, failed.guest_running) == ("finish_failed", False)
    await world.over(world.beta)
    image = world.beta.settings.image_dir / "web.raw"
    assert image.exists()
    await world.say(BROKER, BETA, SwitchoverGranted(port_id=world.agreement.port_id, epoch=2))
    assert await world.hear(RECIPIENT, TransferFailed, count=2) == failed
    await world.beta.kill()
    await world.beta.start()
    assert image.exists(), "a restart removes nothing of it either"
    world.ledger.committed = False
    await abort_inbound(world)
    aborted = await world.hear(RECIPIENT, TransferAborted)
    assert (aborted.guest_running, aborted.left_overs) == (False, ())
    assert not image.exists()
    assert world.beta.journal.load() == ([], [])


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_end_that_was_stored_without_its_word_is_told(
    world: World,
    restarted: bool,  # noqa: FBT001  # a row's value
) -> None:
    """The process died in between: the next one says it at once, and to whoever asks. The guest waits for it."""
    world.beta.hypervisor.fail_finish = "no such CPU"
    await world.start_port()
    await world.hear(RECIPIENT, TransferFailed)
    await world.over(world.beta)
    (record,), _ = world.beta.journal.load()
    if restarted:
        await world.beta.kill()
    world.beta.journal.store(record.model_copy(update={"last_word": None}))
    if restarted:
        await world.beta.start()
    else:
        await world.say(BROKER, BETA, SwitchoverGranted(port_id=world.agreement.port_id, epoch=2))
    failed = await world.hear(RECIPIENT, TransferFailed, count=2)
    assert (failed.guest_running, failed.may_have_run) == (False, False)
    assert (world.beta.settings.image_dir / "web.raw").exists()
    assert world.beta.journal.load()[0][0].phase is Phase.KEPT


async def test_a_guest_that_arrived_and_was_given_back_is_removed(world: World) -> None:
    """By the ledger's word: an operator has settled it so."""
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    world.ledger.committed, world.ledger.epoch = False, 3
    await abort_inbound(world)
    assert not (await world.hear(RECIPIENT, TransferAborted)).guest_running
    assert world.beta.hypervisor.vms == {}
    assert list(world.beta.settings.image_dir.iterdir()) == []


async def test_an_abort_that_comes_twice_is_answered_twice(world: World) -> None:
    """One after the other."""
    await asyncio.gather(abort_inbound(world), abort_inbound(world))
    assert await world.hear(RECIPIENT, TransferAborted, count=2)


async def test_a_damaged_record_of_an_arrival_lets_nothing_be_said(world: World) -> None:
    """A grant is not answered with a no that nobody has looked at; an abort names what it cannot know."""
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    await world.beta.kill()
    port_id = world.agreement.port_id
    (world.beta.settings.state_dir / "ports" / f"{port_id}.inbound.json").write_bytes(b"\0")
    await world.beta.start()
    await world.say(BROKER, BETA, SwitchoverGranted(port_id=port_id, epoch=2))
    await world.say(RECIPIENT, BETA, OpenInbound(port_id=port_id, agreement=world.agreement))
    await abort_inbound(world)
    aborted = await world.hear(RECIPIENT, TransferAborted)
    assert "damaged" in aborted.left_overs[0]
    heard = [envelope.data for envelope in world.broker.received(RECIPIENT)]
    assert not any(isinstance(message, TransferFailed) for message in heard)
    assert world.beta.hypervisor.vms[VM].state is VmState.RUNNING


async def test_what_remains_is_removed_when_it_is_possible(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt is away when a transfer fails, and when the agent starts again; then it is back."""
    monkeypatch.setattr(housekeeping, "REMOVE_AGAIN_S", 0.02)
    run_dir = world.beta.settings.run_dir / str(world.agreement.port_id)
    run_dir.mkdir(parents=True)
    image = world.beta.settings.image_dir / "web.raw"
    image.touch()
    record = PortRecord(side=Side.INBOUND, agreement=world.agreement, phase=Phase.FAILED)
    journal = TransferJournal(world.beta.journal, record)
    for kind, name in ((Kind.DIRECTORY, run_dir), (Kind.DISK, image), (Kind.DOMAIN, VM)):
        journal.will_create(kind, str(name))
    world.beta.hypervisor.add(world.agreement.domain_xml, state=VmState.PAUSED, persistent=False)
    destroy, away = world.beta.hypervisor.destroy_created, [None] * 3

    async def destroy_when_back(uuid: UUID, *, disks: tuple[str, ...]) -> None:
        if away:
            away.pop()
            raise HypervisorError("destroy", "libvirtd is away")
        await destroy(uuid, disks=disks)

    monkeypatch.setattr(world.beta.hypervisor, "destroy_created", destroy_when_back)
    await world.beta.kill()
    await world.beta.start()
    async with asyncio.timeout(10):
        while (now := world.beta.journal.get(record.port_id, Side.INBOUND)) is None or now.made:  # noqa: ASYNC110  # a file
            await asyncio.sleep(0.01)
    assert not run_dir.exists()
    assert not image.exists()
    assert world.beta.hypervisor.vms == {}


async def test_the_directory_of_an_arrived_guest_is_removed_and_nothing_else(world: World) -> None:
    """The agent died between the arrival and its clean-up."""
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    run_dir = world.beta.settings.run_dir / str(world.agreement.port_id)
    run_dir.mkdir(parents=True)
    record = world.beta.journal.get(world.agreement.port_id, Side.INBOUND)
    assert record is not None
    TransferJournal(world.beta.journal, record).will_create(Kind.DIRECTORY, str(run_dir))
    await world.beta.kill()
    await world.beta.start()
    async with asyncio.timeout(10):
        while run_dir.exists():  # noqa: ASYNC110  # a directory
            await asyncio.sleep(0.01)
    assert world.beta.hypervisor.vms[VM].state is VmState.RUNNING
    assert (world.beta.settings.image_dir / "web.raw").exists()


async def test_an_abort_of_a_port_that_never_began_here_is_answered(world: World) -> None:
    """Nothing on this host is frozen, so what runs here runs."""
    await world.say(DONOR, ALPHA, AbortTransfer(port_id=world.agreement.port_id, side=Side.OUTBOUND, reason="x"))
    assert (await world.hear(DONOR, TransferAborted)).guest_running


async def asked_for_the_copy(world: World, *, count: int = 1) -> CopyState:
    """What the donor's node answers."""
    await world.say(BROKER, ALPHA, QueryCopy(port_id=world.agreement.port_id, vm_uuid=VM))
    return await world.hear(BROKER, CopyState, count=count)


async def test_a_guest_that_has_left_was_let_go(world: World) -> None:
    """Whoever asks, and after a restart."""
    await world.start_port()
    await world.hear(DONOR, OutboundFinished)
    await world.over(world.alpha)
    assert (await asked_for_the_copy(world)).let_go
    await world.alpha.kill()
    await world.alpha.start()
    assert (await asked_for_the_copy(world, count=2)).let_go


async def test_a_guest_that_stays_was_not_let_go(world: World) -> None:
    """The transfer has ended, and the fence against starts is open."""
    world.beta.hypervisor.fail_finish = "no such CPU"
    world.ledger.denies = "no"
    await world.start_port()
    assert (await world.hear(DONOR, TransferFailed)).guest_running
    await world.over(world.alpha)
    assert not (await asked_for_the_copy(world)).let_go


async def test_nothing_is_said_of_a_copy_without_a_record(world: World) -> None:
    """Nobody knows whether it was let go."""
    await world.say(BROKER, ALPHA, QueryCopy(port_id=world.agreement.port_id, vm_uuid=VM))
    await asyncio.sleep(0.1)
    assert not [each for each in world.broker.received(BROKER) if isinstance(each.data, CopyState)]


async def test_a_copy_that_waits_for_the_ledger_is_promised(world: World) -> None:
    """The transfer's own machine answers, and keeps it."""
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    assert not (await asked_for_the_copy(world)).let_go
    assert world.alpha.hypervisor.vms[VM].frozen


async def test_an_abort_of_an_older_ledger_is_not_believed(world: World) -> None:
    """The guest has arrived by epoch 2: what a restored ledger says of epoch 1 removes nothing, and is not answered."""
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.beta)
    world.ledger.committed, world.ledger.epoch = False, 1
    port_id = world.agreement.port_id
    old = AbortTransfer(port_id=port_id, side=Side.INBOUND, reason="x", epoch=1)
    await world.say(RECIPIENT, BETA, old)
    await asyncio.sleep(0.2)
    assert world.beta.hypervisor.vms[VM].state is VmState.RUNNING
    assert not [each for each in world.broker.received(RECIPIENT) if isinstance(each.data, TransferAborted)]


async def test_the_fence_of_an_undecided_guest_is_no_older_ledgers(world: World) -> None:
    """The donor has heard of the commit, and its agent was restarted: a restored ledger's abort resumes nothing."""
    await donor_hears_of_the_commit(world)
    await world.alpha.kill()
    world.ledger.silent = True
    await world.alpha.start()
    assert world.alpha.journal.load()[0][0].told_epoch == 2
    old = AbortTransfer(port_id=world.agreement.port_id, side=Side.OUTBOUND, reason="x", epoch=1)
    await world.say(DONOR, ALPHA, old)
    await asyncio.sleep(0.2)
    assert world.alpha.hypervisor.vms[VM].frozen


async def donor_hears_of_the_commit(world: World) -> None:
    """And not of the arrival."""
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    world.ledger.committed = True
    await world.say(BROKER, ALPHA, world.ledger.state())
    for _ in range(500):
        if world.alpha.journal.load()[0][0].told_epoch == 2:
            return
        await asyncio.sleep(0.01)
