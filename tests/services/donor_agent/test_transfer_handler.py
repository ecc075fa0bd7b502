"""A port is started, aborted and ended only as it was approved."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from services.donor_agent.testing import PORT, make_heartbeat
from shared.messages import Message
from shared.messages.approval import DonorApproved
from shared.messages.nodes import (
    ExpectOutbound,
)
from shared.messages.porting import (
    AbortTransfer,
    PortingFixed,
    Side,
    StartOutbound,
    TransferAborted,
    TransferFailed,
)
from shared.messages.service_change import PortCancelled, PortFailed, PortPhase
from shared.parties import BROKER
from tests.support.donor_world import NODE, OTHER, POLICY, World


async def test_a_port_that_was_never_approved_is_not_started(running: World) -> None:
    """The broker is told so, as a failure of this half, with the guest running."""
    await running.beat()
    await running.say(BROKER, StartOutbound(port_id=PORT, agreement=running.agreement()))

    (failed,) = running.heard(BROKER, TransferFailed)
    assert (failed.side, failed.code, failed.guest_running) == (Side.OUTBOUND, "not_approved", True)
    assert running.heard(NODE, StartOutbound) == []


async def test_an_agreement_other_than_approved_is_not_started(running: World) -> None:
    """Whatever differs is named."""
    await running.to_approved()
    other = running.agreement(tenant="globex")
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=other))
    await running.say(BROKER, StartOutbound(port_id=PORT, agreement=other))

    (failed,) = running.heard(BROKER, TransferFailed)
    assert failed.code == "agreement_differs"
    assert "tenant" in failed.detail
    assert running.heard(NODE, StartOutbound) == []


async def test_the_policy_of_the_day_of_the_start_counts(world: World) -> None:
    """A legal hold that came between approval and window keeps the VM here."""
    async with world.agent():
        await world.to_approved()
        await world.say(BROKER, PortingFixed(port_id=PORT, agreement=world.agreement()))
    world.policy_path.write_text(POLICY + 'legal_hold = "court order"\n')
    async with world.agent():
        await world.beat()
        await world.say(BROKER, StartOutbound(port_id=PORT, agreement=world.agreement()))

    (failed,) = world.heard(BROKER, TransferFailed)
    assert failed.code == "legal_hold"


async def test_a_vm_that_changed_its_node_is_not_started(running: World) -> None:
    """The agreement names the node."""
    await running.to_approved()
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=running.agreement()))
    await running.beat(vms=())
    await running.say(OTHER, make_heartbeat(running.clock()))
    await running.say(BROKER, StartOutbound(port_id=PORT, agreement=running.agreement()))

    assert [failed.code for failed in running.heard(BROKER, TransferFailed)] == ["vm_moved"]


async def test_a_port_that_begins_later_is_not_expected_yet(running: World) -> None:
    """Its disk would have changed until then."""
    await running.to_approved()
    later = running.agreement(window_start=running.clock() + timedelta(hours=1))
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=later))
    assert running.heard(NODE, ExpectOutbound) == []


@pytest.mark.parametrize("started", [False, True])
async def test_abort_is_answered_in_every_phase(running: World, *, started: bool) -> None:
    """The node answers once it has been asked to start; before, the agent knows that nothing was touched."""
    if started:
        await running.to_moving()
    else:
        await running.to_approved()
    await running.say(BROKER, AbortTransfer(port_id=PORT, side=Side.OUTBOUND, reason="cancelled"))
    if started:
        assert running.heard(BROKER, TransferAborted) == []
        await running.say(NODE, TransferAborted(port_id=PORT, side=Side.OUTBOUND, guest_running=True))

    assert len(running.heard(NODE, AbortTransfer)) == int(started)
    (aborted,) = running.heard(BROKER, TransferAborted)
    assert aborted.guest_running


async def test_abort_of_a_port_that_nobody_knows_is_answered(running: World) -> None:
    """The broker never waits for nothing."""
    await running.say(BROKER, AbortTransfer(port_id=PORT, side=Side.OUTBOUND, reason="x"))

    assert len(running.heard(BROKER, TransferAborted)) == 1


@pytest.mark.parametrize(
    "end",
    [
        PortFailed(port_id=PORT, phase=PortPhase.TRANSFERRING, code="x", detail="y", vm_runs_at="alpha"),
        PortCancelled(port_id=PORT, phase=PortPhase.TRANSFERRING),
    ],
)
async def test_an_ended_port_frees_its_place(running: World, end: Message) -> None:
    """The VM may leave another time, and the old port may not start again."""
    await running.to_moving()
    await running.say(BROKER, end)
    await running.say(BROKER, StartOutbound(port_id=PORT, agreement=running.agreement()))
    await running.to_approved(UUID(int=8))

    assert [failed.code for failed in running.heard(BROKER, TransferFailed)] == ["not_approved"]
    assert [approved.port_id.int for approved in running.heard(BROKER, DonorApproved)] == [7, 8]
