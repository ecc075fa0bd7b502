"""The manual clock, and what the bus in memory does beyond the bus contract."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from shared.bus import LaneEnds, Undeliverable
from shared.messages import AnyEnvelope, seal
from shared.messages.queries import ListVms, VmsListed
from shared.parties import BROKER, node, tenant
from shared.redelivery import MAX_ATTEMPTS
from shared.tasks import Tasks
from shared.testing import START, ManualClock, MemoryBroker, breathe
from shared.testing_lanes import MemoryLaneAdmin
from shared.topology import DELIVERY_LIMIT

ACME = tenant("acme")


def question() -> AnyEnvelope:
    return seal(ListVms(), source=ACME, message_id=uuid4(), now=datetime.now(UTC))


async def test_clock_stands_still_until_it_is_moved() -> None:
    """Sleepers wake in their order, each at its own time."""
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append((name, clock.monotonic()))

    async with Tasks("test") as tasks:
        for name, delay_s in (("late", 5.0), ("soon", 1.0), ("never", 100.0)):
            tasks.spawn(sleeper(name, delay_s), name=name)
        await breathe()
        assert woken == []
        await clock.advance(10.0)
        assert woken == [("soon", 1.0), ("late", 5.0)]
        assert clock() == clock.now() == START + timedelta(seconds=10)


async def test_clock_wakes_who_sleeps_again() -> None:
    """A periodic task runs as often as the time that passed says."""
    clock, ticks = ManualClock(), 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await clock.sleep(1.0)
            ticks += 1

    async with Tasks("test") as tasks:
        tasks.spawn(tick(), name="tick")
        await clock.advance(3.5)
        assert ticks == 3


async def test_failing_handler_is_given_up_after_its_attempts() -> None:
    """On the manual clock the retries of minutes take no time."""
    clock = ManualClock()
    broker = MemoryBroker(BROKER, ACME, clock=clock)
    attempts: list[float] = []

    async def fails(_: AnyEnvelope) -> None:
        attempts.append(clock.monotonic())
        raise OSError("disk full")

    async with Tasks("test") as tasks:
        tasks.spawn(broker.bus(BROKER).consume(fails), name="consume")
        await broker.bus(ACME).publish(BROKER, question())
        await clock.advance(300.0)
    assert len(attempts) == MAX_ATTEMPTS
    assert 30 < attempts[-1] < 180
    (letter,) = broker.dead[BROKER]
    assert (letter.code, letter.reason, letter.sender) == ("handler_failed", "OSError: disk full", "tenant.acme")


async def test_small_inbox_is_full() -> None:
    """A tenant's drops its oldest instead."""
    broker = MemoryBroker(BROKER, ACME)
    broker.limit_inbox(BROKER, 1)
    await broker.bus(ACME).publish(BROKER, question())
    with pytest.raises(Undeliverable):
        await broker.bus(ACME).publish(BROKER, question())
    broker.limit_inbox(ACME, 1)
    for _ in range(3):
        answer = seal(VmsListed(vms=()), source=BROKER, message_id=uuid4(), now=datetime.now(UTC))
        await broker.bus(BROKER).publish(ACME, answer)
    assert broker.ready_messages(ACME) == 1


async def test_message_that_no_consumer_survives_is_given_up() -> None:
    """The delivery limit counts deliveries that ended without a verdict."""
    broker = MemoryBroker(BROKER, ACME)
    await broker.bus(ACME).publish(BROKER, question())
    entered = asyncio.Event()

    async def dies(_: AnyEnvelope) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with Tasks("test") as tasks:
        for _ in range(DELIVERY_LIMIT + 1):
            consumer = tasks.spawn(broker.bus(BROKER).consume(dies), name="consume")
            await entered.wait()
            entered.clear()
            consumer.cancel()
            await asyncio.wait({consumer})
        tasks.spawn(broker.bus(BROKER).consume(dies), name="consume")
        await breathe()
    assert [letter.code for letter in broker.dead[BROKER]] == ["delivery_limit"]


async def test_idle_means_everything_is_handled() -> None:
    """Also what a handler sent on."""
    broker = MemoryBroker(BROKER, ACME)
    bus, heard = broker.bus(BROKER), []

    async def answer(envelope: AnyEnvelope) -> None:
        reply = seal(VmsListed(vms=()), source=BROKER, message_id=uuid4(), now=datetime.now(UTC), cause=envelope)
        await bus.publish(ACME, reply)

    async def hear(envelope: AnyEnvelope) -> None:
        heard.append(envelope.correlationid)

    async with Tasks("test") as tasks:
        tasks.spawn(bus.consume(answer), name="broker")
        tasks.spawn(broker.bus(ACME).consume(hear), name="acme")
        asked = question()
        await broker.bus(ACME).publish(BROKER, asked)
        await broker.wait_idle()
        assert heard == [asked.correlationid]
        assert [envelope.type for envelope in broker.received(ACME)] == ["vmport.VmsListed"]


def test_party_that_is_not_set_up_has_no_bus() -> None:
    """A test's mistake is said at once."""
    with pytest.raises(ValueError, match="not set up"):
        MemoryBroker(BROKER).bus(ACME)


async def test_lanes_are_remembered() -> None:
    """Both calls are idempotent."""
    admin, ends = MemoryLaneAdmin(), LaneEnds(uuid4(), node("a", "one"), node("b", "two"))
    for _ in range(2):
        await admin.open_lanes(ends)
    assert admin.open == {ends.port_id: ends}
    for _ in range(2):
        await admin.close_lanes(ends)
    assert admin.open == {}
    assert admin.closed == [ends.port_id]
