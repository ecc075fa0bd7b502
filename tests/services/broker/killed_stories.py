"""A broker that is killed at each of its transitions in turn never loses a port.

On each way that a port can go, the broker dies just before and just after every commit of its ledger, every publish and
every change of lanes, comes back from the same ledger, and dies at the next one. With a real PostgreSQL two brokers
share the work, and both die so. `test_killed` runs these stories, each ledger's in a process of its own.
"""

from __future__ import annotations

import asyncio

import pytest

from shared.messages import Message
from shared.messages.porting import OutboundStarted, Side, StartOutbound, SwitchoverGranted
from shared.messages.service_change import (
    CancelPort,
    CancelRefused,
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortPhase,
)
from tests.support.broker_ledger import owners
from tests.support.broker_samples import ACME, ALPHA, ALPHA_NODE, BETA, BETA_NODE, PORT, guest_paused, transfer_failed
from tests.support.broker_world import World
from tests.support.mortal_broker import Plan, live

P = PortPhase
# A task that dies while its connection is being opened leaves it to the collector, as a killed process does.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(400),  # a hundred lives of a process
]


async def run(world: World, end: type[Message], *, brokers: int) -> Plan:
    """One port, with so many brokers that die at each transition; returns where they did."""
    plan = Plan()
    world.patience_s = 300.0
    loop = asyncio.get_running_loop()
    lives = [loop.create_task(live(world, plan)) for _ in range(brokers)]
    told = loop.create_task(tell(world, end))
    try:
        await asyncio.wait({*lives, told}, return_when=asyncio.FIRST_COMPLETED)
        for ended in (each for each in lives if each.done()):
            ended.result()
        await told
    finally:
        plan.over = True
        for each in (*lives, told):
            each.cancel()
        await asyncio.gather(*lives, told, return_exceptions=True)
    return plan


async def tell(world: World, end: type[Message]) -> None:
    """The request, and what follows until nothing is left."""
    await world.ask_for_port()
    for party in (ACME, ALPHA, BETA):
        await world.until_told(party, end)
    await world.until_nothing_is_left()


def told_once(world: World) -> list[str]:
    """What the tenant was told; a message that was published again counts once, as its receiver takes it.

    Without the answers to a cancel: a donor that is asked again to start makes this tenant cancel again.
    """
    told = {envelope.id: type(envelope.data).__name__ for envelope in world.broker.received(ACME)}
    return [kind for kind in told.values() if kind != CancelRefused.__name__]


@pytest.fixture
def brokers(store_url: str) -> int:
    """How many: two on PostgreSQL, as in service; SQLite has one."""
    return 1 if store_url.startswith("sqlite") else 2


async def test_completed(store_url: str, brokers: int) -> None:
    """The VM changes its provider once, and everybody is told."""
    async with World(store_url, run=False) as world:
        plan = await run(world, PortCompleted, brokers=brokers)
        state = (await world.port()).state
        assert (state.phase, state.owner, state.epoch) == (P.COMPLETED, "beta", 2)
        assert await owners(world.store) == [(1, "alpha"), (2, "beta")]
        assert told_once(world) == ["PortAccepted", "PortingFixed", "PortCompleted"]
        assert world.broker.dead[world.store.party] == []
    for point in ("before commit of RequestSwitchover", "after publish of SwitchoverGranted", "after opening of lanes"):
        assert any(each.startswith(point) for each in plan.points)
    assert len(plan.points) >= 60


async def test_cancelled(store_url: str, brokers: int) -> None:
    """The transfer is stopped on both sides, and the VM stays."""
    async with World(store_url, run=False) as world:
        started, cancel = OutboundStarted(port_id=PORT), CancelPort(port_id=PORT)
        world.script(ALPHA, StartOutbound, (ALPHA, started), (ALPHA_NODE, guest_paused()), (ACME, cancel))
        await run(world, PortCancelled, brokers=brokers)
        state = (await world.port()).state
        assert (state.phase, state.owner, state.epoch) == (P.CANCELLED, "alpha", 1)
        assert await owners(world.store) == [(1, "alpha")]
        assert told_once(world) == ["PortAccepted", "PortingFixed", "PortCancelled"]


async def test_given_back(store_url: str, brokers: int) -> None:
    """The recipient cannot take the VM after the commit: the next epoch is the donor's, once."""
    async with World(store_url, run=False) as world:
        world.script(BETA_NODE, SwitchoverGranted, (BETA, transfer_failed(Side.INBOUND, guest_running=False)))
        await run(world, PortFailed, brokers=brokers)
        state = (await world.port()).state
        assert (state.phase, state.owner, state.epoch) == (P.FAILED, "alpha", 3)
        assert await owners(world.store) == [(1, "alpha"), (2, "beta"), (3, "alpha")]
        assert told_once(world) == ["PortAccepted", "PortingFixed", "PortFailed"]
