"""Two broker processes on one ledger and one inbox: they share the work, and each step is taken once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from sqlalchemy import select

from services.broker.metrics import BrokerMetrics
from services.broker.service import BrokerService
from services.broker.tables import epochs
from shared.messages.service_change import PortCompleted, PortPhase, PortRefused
from shared.metrics import Metrics
from shared.parties import BROKER
from shared.store import Store
from tests.support.broker_samples import ACME, ALPHA, BETA, BETA_NODE, request
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
