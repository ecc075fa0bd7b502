"""The donor agent as a whole: on the in-memory bus, over a real SQLite file, with a node and a broker that talk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.donor_agent.testing import PORT, VM, make_identity
from shared.messages import Message
from shared.messages.approval import ApprovalRequested, DonorApproved
from shared.messages.nodes import (
    DescribeVm,
    EraseQuarantine,
    ExpectOutbound,
    InventoryReported,
    VmDescribed,
)
from shared.messages.porting import (
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    OutboundFinished,
    OutboundStarted,
    PortingFixed,
    Side,
    StartOutbound,
    TransferFailed,
    VmDisconnected,
)
from shared.parties import BROKER, Party
from tests.support.donor_world import ALPHA, COMPLETED, FINISHED, NODE, OTHER, World


async def test_the_whole_way_of_a_vm_that_leaves(running: World) -> None:
    """Asked, described, approved, started, left, disconnected, quarantined, erased: each step told."""
    await running.to_left()
    await running.say(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM))
    await running.say(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",)))
    disconnected_at = running.clock()
    await running.say(BROKER, COMPLETED)
    await running.pass_time(99)
    assert running.heard(NODE, EraseQuarantine) == []
    await running.pass_time(1)
    assert running.heard(NODE, EraseQuarantine) == [EraseQuarantine(port_id=PORT)]
    await running.say(NODE, DisksErased(port_id=PORT, erased_bytes=1 << 28))

    told = [type(e.data) for e in running.bus.received(BROKER) if not isinstance(e.data, InventoryReported)]
    assert told == [DonorApproved, OutboundStarted, OutboundFinished, VmDisconnected, DisksErased]
    assert [type(e.data) for e in running.bus.received(NODE)] == [
        DescribeVm,
        ExpectOutbound,
        StartOutbound,
        DisconnectVm,
        EraseQuarantine,
    ]
    (said,) = running.heard(BROKER, VmDisconnected)
    assert said.quarantine_until == disconnected_at + timedelta(seconds=100)
    assert said.quarantined_disks == ("/q/vda",)
    assert running.dead_codes() == []


async def test_answers_stay_in_the_conversation(running: World) -> None:
    """Every relayed message names its cause and keeps the port's correlation."""
    await running.to_moving()

    for to in (BROKER, NODE):
        for envelope in running.bus.received(to):
            if not isinstance(envelope.data, InventoryReported):
                assert envelope.correlationid == PORT
                assert envelope.causationid is not None
                assert envelope.sender == ALPHA


async def test_a_duplicate_message_has_no_second_effect(running: World) -> None:
    """The same message id twice is one request."""
    await running.beat()
    message_id = uuid4()
    for _ in range(2):
        await running.say(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM), message_id=message_id)

    assert len(running.heard(NODE, DescribeVm)) == 1


async def test_a_deadline_is_kept_and_passed_on(running: World) -> None:
    """What comes too late is not acted on; what is relayed is worth nothing after the same instant."""
    await running.to_approved()
    start = StartOutbound(port_id=PORT, agreement=running.agreement())
    soon = running.clock() + timedelta(seconds=5)
    await running.say(BROKER, start, deadline=running.clock() - timedelta(seconds=1))
    assert running.heard(NODE, StartOutbound) == []
    await running.say(BROKER, start, deadline=soon)

    assert [e.deadline for e in running.bus.received(NODE) if isinstance(e.data, StartOutbound)] == [soon]


@pytest.mark.parametrize("sender", [OTHER, NODE])
async def test_a_node_is_heard_only_about_ports_that_it_holds(running: World, sender: Party) -> None:
    """Another node of the provider, or the right node about a port that nobody asked for, is not believed."""
    await running.to_moving()
    port_id = PORT if sender == OTHER else UUID(int=99)
    await running.say(sender, FINISHED.model_copy(update={"port_id": port_id}))

    assert running.heard(BROKER, OutboundFinished) == []
    assert running.dead_codes() == ["wrong_node" if sender == OTHER else "unknown_port"]


async def test_failures_of_the_node_are_passed_on(running: World) -> None:
    """The broker decides what follows."""
    await running.to_moving()
    failed = TransferFailed(port_id=PORT, side=Side.OUTBOUND, code="x", detail="y", guest_running=True)
    unfinished = CompletionFailed(port_id=PORT, side=Side.OUTBOUND, code="x", detail="y")
    await running.say(NODE, failed)
    await running.say(NODE, unfinished)

    assert running.heard(BROKER, TransferFailed) == [failed]
    assert running.heard(BROKER, CompletionFailed) == [unfinished]


async def test_everything_survives_a_restart(world: World) -> None:
    """A restart between any two messages changes nothing, not even before the first heartbeat."""

    def said(sender: Party, message: Message) -> Callable[[], Awaitable[None]]:
        return lambda: world.say(sender, message)

    await world.restarted(
        world.beat,
        said(BROKER, ApprovalRequested(port_id=PORT, tenant="acme", vm_uuid=VM)),
        said(NODE, VmDescribed(port_id=PORT, identity=make_identity())),
        said(BROKER, PortingFixed(port_id=PORT, agreement=world.agreement())),
        said(BROKER, StartOutbound(port_id=PORT, agreement=world.agreement())),
        said(NODE, OutboundStarted(port_id=PORT)),
        said(NODE, FINISHED),
        said(BROKER, DisconnectVm(port_id=PORT, vm_uuid=VM)),
        said(NODE, VmDisconnected(port_id=PORT, quarantined_disks=("/q/vda",))),
        lambda: world.pass_time(100),
        said(NODE, DisksErased(port_id=PORT, erased_bytes=1)),
    )

    told = [type(e.data) for e in world.bus.received(BROKER) if not isinstance(e.data, InventoryReported)]
    assert told == [DonorApproved, OutboundStarted, OutboundFinished, VmDisconnected, DisksErased]
    assert world.dead_codes() == []
