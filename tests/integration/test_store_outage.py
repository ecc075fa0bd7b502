"""A PostgreSQL that stops and comes back, as in a restart or a fail-over: the broker waits, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from shared.messages import Message
from shared.messages.porting import DisconnectVm, OpenInbound, ReservationRequested, StartOutbound, SwitchoverGranted
from shared.messages.service_change import PortCompleted
from shared.parties import Party
from shared.store.store import URGENT_RELAY_AFTER
from shared.testing import breathe
from tests.support.broker_samples import ACME, ALPHA, BETA, BETA_NODE
from tests.support.broker_world import World
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.servers
NOTICED = (
    ("store unavailable", "waiting"),
    ("lanes unavailable", "trying again"),
    ("timers unreadable", "trying again"),
)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A cluster that this test may stop."""
    made = PostgresServer()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("party", "kind"),
    [
        (BETA, ReservationRequested),
        (BETA, OpenInbound),
        (ALPHA, StartOutbound),
        (BETA_NODE, SwitchoverGranted),
        (ALPHA, DisconnectVm),
    ],
)
async def test_restart_in_a_phase(server: PostgresServer, party: Party, kind: type[Message]) -> None:
    """The database is gone when the answer comes: the broker neither dies nor gives the answer up."""
    async with World(server.new_database()) as world:
        answer = world.mute(party, kind)
        await world.ask_for_port()
        asked = await world.until_told(party, kind)
        await world.broker.wait_idle()
        await asyncio.to_thread(server.stop)
        with capture_logs() as lines:
            for speaker, message in answer(asked):
                await world.say(speaker, message, cause=asked)
            world.service.lanes.wake()
            world.store.timers_changed.set()
            noticed = {
                "store unavailable; waiting",
                "lanes unavailable; trying again",
                "timers unreadable; trying again",
            }
            async with asyncio.timeout(20):
                while not noticed <= {line["event"] for line in lines}:
                    await breathe()
        await asyncio.to_thread(server.start)
        await world.until_told(ACME, PortCompleted)
        # What urgent work published, and could not mark as sent, is published again a moment later.
        await world.clock.advance(URGENT_RELAY_AFTER.total_seconds())
        await world.until_nothing_is_left()
        assert not world.has_ended
        assert world.broker.dead[world.store.party] == []
