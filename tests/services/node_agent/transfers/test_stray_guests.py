"""Frozen guests whose journal record is damaged: the ledger is asked where that can be, and an operator told where
not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from shared.messages.porting import AbortTransfer, InboundFinished, Side, TransferAborted, TransferFailed
from shared.messages.vm import VmState
from shared.parties import donor, recipient
from tests.support.node_world import ALPHA
from tests.support.transfer_pair import VM

if TYPE_CHECKING:
    from tests.support.node_world import World

DONOR, RECIPIENT = donor("alpha"), recipient("beta")


async def donor_dies_in_finish(world: World, *, keep_bytes: int) -> None:
    """The guest is frozen; then so much of the journal's file is left."""
    world.ledger.silent = True
    await world.start_port()
    await asyncio.wait_for(world.ledger.was_asked.wait(), 10)
    await world.alpha.kill()
    (path,) = (world.alpha.settings.state_dir / "ports").glob("*.json")
    path.write_bytes(path.read_bytes()[:keep_bytes])
    assert world.alpha.hypervisor.vms[VM].frozen


async def abort_outbound(world: World) -> TransferAborted:
    """The broker gives up the donor's side."""
    await world.say(DONOR, ALPHA, AbortTransfer(port_id=world.agreement.port_id, side=Side.OUTBOUND, reason="x"))
    return await world.hear(DONOR, TransferAborted)


async def test_a_frozen_guest_is_asked_about_and_runs_again(world: World) -> None:
    """The broker aborts: the guest runs on, and that is said after a look."""
    await donor_dies_in_finish(world, keep_bytes=-100)
    await world.alpha.start()
    assert (await world.hear(DONOR, TransferFailed)).code == "switchover_in_doubt"
    assert world.alpha.hypervisor.vms[VM].frozen
    assert (await abort_outbound(world)).guest_running
    assert world.alpha.hypervisor.vms[VM].state is VmState.RUNNING


async def test_the_copy_of_a_guest_that_has_left_is_killed(world: World) -> None:
    """It runs at the recipient, by the ledger."""
    await donor_dies_in_finish(world, keep_bytes=-100)
    world.ledger.silent = False
    await world.hear(RECIPIENT, InboundFinished)
    world.ledger.arrived = True
    copy = world.alpha.hypervisor.vms[VM]
    await world.alpha.start()
    failed = await world.hear(DONOR, TransferFailed, count=2)
    assert (failed.code, failed.guest_running) == ("journal_damaged", False)
    assert (copy.state, copy.ran_at_s) == (VmState.SHUT_OFF, [])
    assert not (await abort_outbound(world)).guest_running


async def test_a_frozen_guest_that_nobody_knows_of_is_told_and_left(world: World) -> None:
    """An abort is not answered with "it runs" without a look, which is not possible."""
    await donor_dies_in_finish(world, keep_bytes=0)
    await world.alpha.start()
    aborted = await abort_outbound(world)
    assert not aborted.guest_running
    assert "damaged" in aborted.left_overs[0]
    (problem,) = world.alpha.transfers.problems()
    assert str(VM) in problem
    assert world.alpha.hypervisor.vms[VM].frozen


@pytest.mark.parametrize("frozen", [True, False])
async def test_a_port_that_is_not_known_here_is_judged_by_what_is_frozen(world: World, *, frozen: bool) -> None:
    """Its guest may be the one that is frozen."""
    await world.alpha.kill()
    world.alpha.hypervisor.vms[VM].frozen = frozen
    await world.alpha.start()
    assert (await abort_outbound(world)).guest_running is not frozen
