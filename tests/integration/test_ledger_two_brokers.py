"""Two broker processes on one ledger and one inbox: they share the work, and each step is taken once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from sqlalchemy import select

from services.broker import ledger
from services.broker.metrics import BrokerMetrics
from services.broker.port_steps import Stepper, timer_key
from services.broker.rules import Limits
from services.broker.saga import Heard, Timing
from services.broker.service import BrokerService
from services.broker.tables import epochs
from shared.messages.approval import ApprovalRequested
from shared.messages.porting import QuoteRequested
from shared.messages.service_change import PortCompleted, PortPhase, PortRefused
from shared.metrics import Metrics
from shared.parties import BROKER
from shared.store import Store, timers
from tests.support.broker_samples import ACME, ALPHA, BETA, BETA_NODE, PORT, request
from tests.support.broker_world import World, settings


async def test_one_port(store_url: str) -> None:
    """A port whose messages reach either broker in turn completes as if there were one broker."""
    async with World(store_url) as world, Store(store_url, BROKER, clock=world.clock) as store:
        metrics = BrokerMetrics(Metrics(service="second", version="0").registry)
        second = BrokerService(settings(store_url), store, world.broker.bus(BROKER, prefetch=1), world.lanes, metrics)
        running = asyncio.get_running_loop().create_task(second.run())
        await world.ask_for_port()
        await world.until_told(ACME, PortCompleted)
        await world.until_nothing_is_left()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        ended = [each.ports_total.labels(PortPhase.COMPLETED)._value.get() for each in (world.metrics, metrics)]
        assert sum(ended) == 1
        for party, once in ((ACME, "PortCompleted"), (ALPHA, "DisconnectVm"), (BETA, "OpenInbound")):
            ids = {envelope.id for envelope in world.broker.received(party) if type(envelope.data).__name__ == once}
            assert len(ids) == 1, f"{party} was told {once} more than once"
        assert set(world.told(BETA_NODE)) == {"SwitchoverGranted"}
        async with store.reading() as connection:
            rows = await connection.execute(select(epochs.c.epoch, epochs.c.owner).order_by(epochs.c.epoch))
            assert [tuple(row) for row in rows] == [(1, "alpha"), (2, "beta")]


async def test_two_requests_for_one_vm(store_url: str) -> None:
    """Two requests for the same VM, one at each broker, at the same time: one port begins, the other is refused."""
    async with World(store_url) as world, Store(store_url, BROKER, clock=world.clock) as store:
        metrics = BrokerMetrics(Metrics(service="second", version="0").registry)
        second = BrokerService(settings(store_url), store, world.broker.bus(BROKER), world.lanes, metrics)
        world.parts.clear()
        asked = [world.seal(ACME, request(port_id=uuid4())) for _ in range(2)]
        await asyncio.gather(world.service.handle(asked[0]), second.handle(asked[1]))
        refused = (await world.until_told(ACME, PortRefused)).data
        assert isinstance(refused, PortRefused)
        assert [each.code for each in refused.refusals] == ["port_under_way"]
        await world.until_nothing_is_left()
        assert sorted(world.told(ACME)) == ["PortAccepted", "PortRefused"]


async def test_start_in_the_middle_of_a_step(store_url: str) -> None:
    """A broker that starts while another one takes a step waits for it, and does not set the older timers again."""
    async with World(store_url) as world, Store(store_url, BROKER, clock=world.clock) as store:
        metrics = BrokerMetrics(Metrics(service="second", version="0").registry)
        second = BrokerService(settings(store_url), store, world.broker.bus(BROKER), world.lanes, metrics)
        world.mute(BETA, QuoteRequested)
        answer = world.mute(ALPHA, ApprovalRequested)
        await world.ask_for_port()
        asked = await world.until_told(ALPHA, ApprovalRequested)
        await world.broker.wait_idle()
        ((speaker, approved),) = answer(asked)
        stepper = Stepper(Timing(), Limits(), world.metrics, wake_lanes=lambda: None)
        async with world.store.transaction() as tx:
            stored = await ledger.load(tx, PORT)
            assert stored is not None
            decision = await stepper.step(tx, stored, Heard(speaker, approved), world.seal(speaker, approved))
            starting = asyncio.get_running_loop().create_task(second.start())
            await asyncio.wait({starting}, timeout=0.3)
            assert not starting.done()
        await starting
        async with store.reading() as connection:
            armed = [(row.key, row.due_at) for row in await connection.execute(select(timers))]
        assert armed == [(timer_key(PORT, "deadline"), decision.state.deadline)]
