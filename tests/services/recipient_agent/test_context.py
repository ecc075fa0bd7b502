"""What the recipient agent's handlers know at a moment."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import CollectorRegistry

from services.recipient_agent.assessment import Suitable
from services.recipient_agent.context import RecipientContext
from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.settings import RecipientSection
from services.recipient_agent.testing import NOW, VERSIONS, make_heartbeat, make_terms, make_vm
from shared.messages.porting import InboundFinished, VmProvisioned
from shared.parties import BROKER
from tests.support.recipient_world import NODE, PORT, PROVISION, World, arrived


def test_a_node_is_heard_for_a_while() -> None:
    """Then it takes no VM; one that never said anything is not heard."""
    context = RecipientContext(make_terms(), RecipientSection(), RecipientMetrics(CollectorRegistry()))
    assert not context.is_heard("beta-1", NOW)
    context.nodes = context.nodes.heard("beta-1", make_heartbeat(), NOW)
    assert context.is_heard("beta-1", NOW + timedelta(seconds=30))
    assert not context.is_heard("beta-1", NOW + timedelta(seconds=31))


async def test_room_is_held_for_others_only(running: World) -> None:
    """A port does not compete with its own reservation."""
    await running.to_reserved()
    context = running.service._context
    async with running.service.store.transaction() as tx:
        assert [held.port_id for held in await context.held(tx)] == [PORT]
        assert await context.held(tx, except_port=PORT) == []
        answer = await context.assess(tx, PORT, make_vm(), VERSIONS, tenant="acme", cpu_answers={"beta-1": ()})
    assert isinstance(answer, Suitable)
    assert answer.node == "beta-1"


async def test_a_vm_that_came_is_held_while_it_is_here(running: World) -> None:
    """It counts for quotas until its node lists it no more."""
    await running.to_open()
    await running.say(NODE, InboundFinished(port_id=PORT, epoch=2))
    await running.beat(vms=(arrived(),))
    await running.say(BROKER, PROVISION)
    await running.say(NODE, VmProvisioned(port_id=PORT))
    context = running.service._context
    async with running.service.store.transaction() as tx:
        assert [held.reserved for held in await context.held(tx)] == [False]
    await running.clock.advance(1)
    await running.beat(vms=())
    async with running.service.store.transaction() as tx:
        assert await context.held(tx) == []
