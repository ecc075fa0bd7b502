"""The recipient agent as a whole: on the in-memory bus, over a real SQLite file, with a node and a broker that talk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from shared.messages import Message
from shared.messages.nodes import CapacityReported, CheckVm
from shared.messages.porting import (
    CompletionFailed,
    InboundFinished,
    InboundOpened,
    OpenInbound,
    PortingFixed,
    ProvisionVm,
    QuoteOffered,
    Reserved,
    Side,
    TransferFailed,
    VmProvisioned,
)
from shared.parties import BROKER, Party
from tests.support.recipient_world import BETA, NODE, OTHER, PORT, PROVISION, World, arrived


async def test_the_whole_way_of_a_vm_that_comes(running: World) -> None:
    """Quoted, reserved, fixed, opened, arrived, provisioned: each step told."""
    await running.to_open()
    await running.say(NODE, InboundFinished(port_id=PORT, epoch=2))
    assert running.reservations() == 1
    await running.beat(vms=(arrived(),))
    await running.say(BROKER, PROVISION)
    await running.say(NODE, VmProvisioned(port_id=PORT))

    told = [type(e.data) for e in running.bus.received(BROKER) if not isinstance(e.data, CapacityReported)]
    assert told == [QuoteOffered, Reserved, InboundOpened, InboundFinished, VmProvisioned]
    assert [type(e.data) for e in running.bus.received(NODE)] == [CheckVm, OpenInbound, ProvisionVm]
    assert running.heard(BROKER, VmProvisioned)[0].identity_differences == ()
    assert running.reservations() == 0
    assert running.dead_codes() == []


async def test_answers_stay_in_the_conversation(running: World) -> None:
    """Every relayed message names its cause and keeps the port's correlation."""
    await running.to_open()

    for to in (BROKER, NODE):
        for envelope in running.bus.received(to):
            if not isinstance(envelope.data, CapacityReported):
                assert (envelope.correlationid, envelope.sender) == (PORT, BETA)
                assert envelope.causationid is not None


async def test_a_duplicate_message_has_no_second_effect(running: World) -> None:
    """The same message id twice is one request."""
    await running.to_fixed()
    message_id = uuid4()
    for _ in range(2):
        await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()), message_id=message_id)

    assert len(running.heard(NODE, OpenInbound)) == 1


async def test_a_deadline_is_kept_and_passed_on(running: World) -> None:
    """What comes too late is not acted on; what is relayed is worth nothing after the same instant."""
    await running.to_fixed()
    command = OpenInbound(port_id=PORT, agreement=running.agreement())
    soon = running.clock() + timedelta(seconds=5)
    await running.say(BROKER, command, deadline=running.clock() - timedelta(seconds=1))
    assert running.heard(NODE, OpenInbound) == []
    await running.say(BROKER, command, deadline=soon)

    assert [e.deadline for e in running.bus.received(NODE) if isinstance(e.data, OpenInbound)] == [soon]


@pytest.mark.parametrize("sender", [OTHER, NODE])
async def test_a_node_is_heard_only_about_ports_that_it_holds(running: World, sender: Party) -> None:
    """Another node of the provider, or the right node about a port that nobody reserved, is not believed."""
    await running.to_open()
    port_id = PORT if sender == OTHER else UUID(int=99)
    await running.say(sender, InboundFinished(port_id=port_id, epoch=2))

    assert running.heard(BROKER, InboundFinished) == []
    assert running.dead_codes() == ["wrong_node" if sender == OTHER else "unknown_port"]


async def test_failures_of_the_node_are_passed_on(running: World) -> None:
    """The broker decides what follows."""
    await running.to_open()
    failed = TransferFailed(port_id=PORT, side=Side.INBOUND, code="x", detail="y", guest_running=False)
    unfinished = CompletionFailed(port_id=PORT, side=Side.INBOUND, code="x", detail="y")
    await running.say(NODE, failed)
    await running.say(NODE, unfinished)

    assert running.heard(BROKER, TransferFailed) == [failed]
    assert running.heard(BROKER, CompletionFailed) == [unfinished]


async def test_everything_survives_a_restart(world: World) -> None:
    """A restart between any two messages changes nothing, not even before the first heartbeat."""

    def said(sender: Party, message: Callable[[], Message]) -> Callable[[], Awaitable[None]]:
        return lambda: world.say(sender, message())

    await world.restarted(
        world.beat,
        world.quote,
        world.reserve,
        said(BROKER, lambda: PortingFixed(port_id=PORT, agreement=world.agreement())),
        said(BROKER, lambda: OpenInbound(port_id=PORT, agreement=world.agreement())),
        said(NODE, lambda: InboundOpened(port_id=PORT)),
        said(NODE, lambda: InboundFinished(port_id=PORT, epoch=2)),
        said(BROKER, lambda: PROVISION),
        said(NODE, lambda: VmProvisioned(port_id=PORT)),
    )

    told = [type(e.data) for e in world.bus.received(BROKER) if not isinstance(e.data, CapacityReported)]
    assert told == [QuoteOffered, Reserved, InboundOpened, InboundFinished, VmProvisioned]
    assert world.dead_codes() == []
