"""The outbox relay: order, retries, expiry, and what a crash leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import structlog
from sqlalchemy import select, update

from shared.bus import BusDown, DeadLetter, Handler, Undeliverable
from shared.messages import AnyEnvelope, open_envelope
from shared.messages.service_change import PortAccepted
from shared.parties import BROKER, Party, tenant
from shared.store import OutboxRelay, RelayPolicy, Store, inbox, outbox
from shared.testing import ManualClock, MemoryBroker

ACME, GLOBEX = tenant("acme"), tenant("globex")
POLICY = RelayPolicy(poll_s=0.2, bus_down_retry_s=0.02)


class FlakyBus:
    """A bus that fails for whom it is told to; remembers what it took."""

    party = BROKER

    def __init__(self) -> None:
        self.taken: list[tuple[Party, UUID]] = []
        self.failures: dict[Party, Exception] = {}
        self.changed = asyncio.Event()

    async def publish(self, to: Party, envelope: AnyEnvelope) -> None:
        if to in self.failures:
            raise self.failures[to]
        await asyncio.sleep(0)
        assert isinstance(envelope.data, PortAccepted)
        self.taken.append((to, envelope.data.port_id))
        self.changed.set()

    async def consume(
        self, handler: Handler, *, on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None
    ) -> None:
        raise NotImplementedError

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        return

    async def wait_for(self, count: int) -> None:
        """Until so many messages were taken."""
        async with asyncio.timeout(10):
            while len(self.taken) < count:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def clock() -> ManualClock:
    """Stands still."""
    return ManualClock()


@pytest.fixture
async def store(store_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """An open store."""
    async with Store(store_url, BROKER, clock=clock) as opened:
        await opened.create_schema()
        yield opened


@pytest.fixture
def bus() -> FlakyBus:
    """Works until told otherwise."""
    return FlakyBus()


async def send(store: Store, to: Party, *, lifetime: timedelta | None = None) -> UUID:
    """Commit one message; its port id identifies it."""
    port_id = uuid4()
    async with store.transaction() as tx:
        deadline = tx.now + lifetime if lifetime else None
        await tx.send(to, PortAccepted(port_id=port_id), deadline=deadline)
    return port_id


async def running(relay: OutboxRelay) -> asyncio.Task[None]:
    """The relay as a service runs it."""
    return asyncio.get_running_loop().create_task(relay.run())


async def stopped(task: asyncio.Task[None]) -> None:
    """The end of it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_published_at_once(store: Store, bus: FlakyBus) -> None:
    """A commit wakes the relay; nothing waits for a poll."""
    task = await running(OutboxRelay(store, bus, policy=RelayPolicy(poll_s=3600)))
    sent = [await send(store, ACME) for _ in range(3)]
    await bus.wait_for(3)
    await stopped(task)
    assert [port_id for _, port_id in bus.taken] == sent


async def test_order_per_recipient(store: Store, bus: FlakyBus) -> None:
    """Messages to one party are published in the order of their commits, more than one batch of them, too."""
    sent = [await send(store, ACME) for _ in range(25)]
    relay = OutboxRelay(store, bus, policy=RelayPolicy(batch=10))
    await relay.flush()
    assert [port_id for _, port_id in bus.taken] == sent
    assert await store.outbox_depth() == 0


async def test_undeliverable_holds_up_nobody_else(store: Store, bus: FlakyBus, clock: ManualClock) -> None:
    """A recipient without an inbox is tried again with a growing pause; others are served meanwhile; order is kept."""
    bus.failures[ACME] = Undeliverable(ACME, "no inbox")
    first, second, other = await send(store, ACME), await send(store, ACME), await send(store, GLOBEX)
    relay = OutboxRelay(store, bus, policy=POLICY)
    await relay.flush()
    assert bus.taken == [(GLOBEX, other)]
    async with store.reading() as connection:
        row = (await connection.execute(select(outbox).order_by(outbox.c.id).limit(1))).one()
    assert (row.attempts, "no inbox" in row.last_error, row.not_before > clock()) == (1, True, True)
    bus.failures.clear()
    await relay.flush()
    assert bus.taken == [(GLOBEX, other)], "not before its time"
    await clock.advance(60)
    await relay.flush()
    assert bus.taken[1:] == [(ACME, first), (ACME, second)]


async def test_bus_down_is_waited_for(store: Store, bus: FlakyBus) -> None:
    """While the bus is away messages wait, without being counted as undeliverable; then all go, in order."""
    bus.failures[ACME] = BusDown("away")
    task = await running(OutboxRelay(store, bus, policy=POLICY))
    sent = [await send(store, ACME) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert bus.taken == []
    bus.failures.clear()
    await bus.wait_for(3)
    await stopped(task)
    assert [port_id for _, port_id in bus.taken] == sent
    async with store.reading() as connection:
        assert {row.attempts for row in await connection.execute(select(outbox.c.attempts))} == {0}


async def test_expired_is_dropped(store: Store, bus: FlakyBus, clock: ManualClock) -> None:
    """A message past its deadline is not published, and the log says so."""
    await send(store, ACME, lifetime=timedelta(seconds=5))
    kept = await send(store, ACME, lifetime=timedelta(seconds=50))
    await clock.advance(10)
    with structlog.testing.capture_logs() as logs:
        await OutboxRelay(store, bus).flush()
    assert bus.taken == [(ACME, kept)]
    assert [(line["event"], line["log_level"], line["to"]) for line in logs] == [("message dropped", "info", str(ACME))]
    assert "expired" in logs[0]["reason"]
    assert await store.outbox_depth() == 0


async def test_given_up_after_long(store: Store, bus: FlakyBus, clock: ManualClock) -> None:
    """What could not be delivered for a week is dropped with an error."""
    bus.failures[ACME] = Undeliverable(ACME, "no inbox")
    await send(store, ACME)
    await clock.advance(8 * 24 * 3600)
    with structlog.testing.capture_logs() as logs:
        await OutboxRelay(store, bus).flush()
    assert await store.outbox_depth() == 0
    assert [(line["event"], line["log_level"]) for line in logs] == [("message dropped", "error")]
    assert "undeliverable since" in logs[0]["reason"]


async def test_unreadable_row_does_not_block(store: Store, bus: FlakyBus) -> None:
    """A message that this release cannot read back is dropped with an error, and the next one goes."""
    await send(store, ACME)
    async with store.transaction() as tx:
        await tx.execute(update(outbox).values(envelope="{}"))
    good = await send(store, ACME)
    with structlog.testing.capture_logs() as logs:
        await OutboxRelay(store, bus).flush()
    assert bus.taken == [(ACME, good)]
    assert [(line["event"], line["log_level"]) for line in logs] == [("message dropped", "error")]
    assert "cannot read it back" in logs[0]["reason"]


async def test_not_marked_is_published_again(store: Store, bus: FlakyBus) -> None:
    """A crash between publish and mark repeats the message, with the same id, for the receiver to recognise."""
    await send(store, ACME)
    relay = OutboxRelay(store, bus)
    await relay.flush()
    async with store.transaction() as tx:
        await tx.execute(update(outbox).values(sent_at=None))
    await relay.flush()
    assert len(bus.taken) == 2
    assert len(set(bus.taken)) == 1


async def test_prune(store: Store, bus: FlakyBus, clock: ManualClock) -> None:
    """Old published messages and old inbox marks go; what still waits stays."""
    await send(store, ACME)
    relay = OutboxRelay(store, bus)
    await relay.flush()
    async with store.reading() as connection:
        envelope = open_envelope((await connection.execute(select(outbox.c.envelope))).scalar_one().encode())
    async with store.transaction() as tx:
        await tx.first_time(envelope)
    await clock.advance(15 * 24 * 3600)
    waiting = await send(store, GLOBEX)
    await relay.prune()
    async with store.reading() as connection:
        rows = [row.envelope for row in await connection.execute(select(outbox.c.envelope))]
        marks = (await connection.execute(select(inbox))).all()
    assert ([str(waiting) in row for row in rows], marks) == ([True], [])


async def test_marks_do_not_hold_up_what_follows(store: Store, bus: FlakyBus) -> None:
    """More than one batch that is published and not marked yet hides nothing, and nothing is published twice."""
    policy = RelayPolicy(batch=3, poll_s=3600, mark_after_s=3600)
    relay = OutboxRelay(store, bus, policy=policy)
    task = await running(relay)
    sent: list[UUID] = []
    for count in range(1, 5):
        sent += [await send(store, ACME) for _ in range(4)]
        await bus.wait_for(4 * count)
    if store.dialect == "postgresql":
        await asyncio.sleep(0.5)  # each batch is marked at once; what is just being marked at the stop may not be
    await stopped(task)
    assert [port_id for _, port_id in bus.taken] == sent
    assert await unsent(store) == 0, "marked at the stop"


async def test_what_was_published_before_the_bus_went_is_marked(store: Store, bus: FlakyBus) -> None:
    """Only the rest is published later."""
    sent = [await send(store, ACME) for _ in range(3)]
    relay = OutboxRelay(store, bus, policy=POLICY)

    async def one_only(to: Party, envelope: AnyEnvelope) -> None:
        await FlakyBus.publish(bus, to, envelope)
        bus.failures[ACME] = BusDown("away")

    bus.publish = one_only  # type: ignore[method-assign]  # goes after one message
    with pytest.raises(BusDown):
        await relay.flush()
    bus.failures.clear()
    del bus.publish  # and comes back
    await relay.flush()
    assert [port_id for _, port_id in bus.taken] == sent


async def test_depth_is_reported(store: Store, bus: FlakyBus) -> None:
    """The gauge follows the table."""
    depths: asyncio.Queue[int] = asyncio.Queue()
    bus.failures[ACME] = Undeliverable(ACME, "no inbox")
    await send(store, ACME)
    task = await running(OutboxRelay(store, bus, policy=RelayPolicy(poll_s=0.02), on_depth=depths.put_nowait))
    async with asyncio.timeout(10):
        assert await depths.get() == 1
    await stopped(task)


async def test_two_relays_keep_order(store: Store, bus: FlakyBus) -> None:
    """Two processes on one database publish everything, in order for each recipient."""
    sent = [await send(store, ACME) for _ in range(10)]
    tasks = [await running(OutboxRelay(store, bus, policy=POLICY)) for _ in range(2)]
    await bus.wait_for(10)
    for task in tasks:
        await stopped(task)
    firsts = list(dict.fromkeys(port_id for _, port_id in bus.taken))
    assert firsts == sent


async def test_to_the_memory_bus(store: Store) -> None:
    """The real contract: a party's inbox gets what was committed."""
    broker = MemoryBroker(BROKER, ACME)
    port_id = await send(store, ACME)
    await OutboxRelay(store, broker.bus(BROKER)).flush()
    (envelope,) = broker.received(ACME)
    assert envelope.data == PortAccepted(port_id=port_id)


async def send_urgently(store: Store, *to: Party) -> list[UUID]:
    """Commit urgent messages in one transaction; their port ids."""
    port_ids = [uuid4() for _ in to]
    with store.turns.urgent():
        async with store.transaction() as tx:
            for party, port_id in zip(to, port_ids, strict=True):
                await tx.send(party, PortAccepted(port_id=port_id))
    return port_ids


async def unsent(store: Store) -> int:
    """How many rows are not marked."""
    return await store.outbox_depth()


class TestSendNow:
    """What urgent work says is published without the relay's turn."""

    async def test_published_without_a_turn_and_marked(self, store: Store, bus: FlakyBus, clock: ManualClock) -> None:
        """The relay does not publish it again, although it searches the table."""
        all_marked = asyncio.Event()

        def depth(messages: int) -> None:
            if len(bus.taken) == 3 and messages == 0:
                all_marked.set()

        relay = OutboxRelay(store, bus, policy=RelayPolicy(poll_s=0.05, mark_after_s=0.1), on_depth=depth)
        task = await running(relay)
        urgent = await send_urgently(store, ACME, GLOBEX)
        ordinary = await send(store, ACME)
        assert [each.envelope.data for each in store.urgent_outgoing] == [PortAccepted(port_id=each) for each in urgent]
        await relay.send_now(store.urgent_outgoing)
        async with asyncio.timeout(10):
            await all_marked.wait()
        await stopped(task)
        await clock.advance(3600)
        await OutboxRelay(store, bus, policy=POLICY).flush()
        assert sorted(str(port_id) for _, port_id in bus.taken) == sorted(map(str, [*urgent, ordinary]))

    async def test_left_to_the_relay_when_it_fails(self, store: Store, bus: FlakyBus, clock: ManualClock) -> None:
        """The outbox has it; the relay publishes it when the bus is back."""
        relay = OutboxRelay(store, bus, policy=POLICY)
        bus.failures[ACME] = BusDown("away")
        (port_id,) = await send_urgently(store, ACME)
        await relay.send_now(store.urgent_outgoing)
        assert await unsent(store) == 1
        bus.failures.clear()
        await relay.flush()
        assert bus.taken == []  # not before its time: whoever did the work may be about to publish it
        await clock.advance(3)
        await relay.flush()
        assert bus.taken == [(ACME, port_id)]
        assert await unsent(store) == 0

    async def test_crash_before_the_mark(self, store: Store, bus: FlakyBus, clock: ManualClock) -> None:
        """It is published again by the next process: at least once, as always."""
        (port_id,) = await send_urgently(store, ACME)
        await OutboxRelay(store, bus, policy=POLICY).send_now(store.urgent_outgoing)
        await clock.advance(3)
        await OutboxRelay(store, bus, policy=POLICY).flush()
        assert bus.taken == [(ACME, port_id)] * 2
