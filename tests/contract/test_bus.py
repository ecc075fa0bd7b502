"""The bus port's contract, held by the bus in memory and by RabbitMQ alike: one suite, two worlds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, cast
from uuid import UUID, uuid4

import pika
import pytest

from shared.bus import Bus, BusDown, DeadLetter, Reject, Session, Undeliverable, UrgentBus
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.porting import QuerySwitchover
from shared.messages.queries import ListVms, VmsListed
from shared.messages.service_change import CancelPort, CancelRefused, PortAccepted
from shared.metrics import Metrics
from shared.parties import BROKER, Party, donor, node, tenant
from shared.rabbit.bus import RabbitBus
from shared.rabbit.session import open_session
from shared.tasks import Tasks
from shared.testing import MemoryBroker
from shared.topology import dead_queue, to_exchange
from tests.support.rabbitmq_node import RabbitNode
from tests.support.tcp_proxy import TcpProxy

ACME, GLOBEX, ALPHA, ALPHA_NODE = tenant("acme"), tenant("globex"), donor("alpha"), node("alpha", "alpha-1")
WAIT_S = 20.0
NOW = datetime.now(UTC)


class World(Protocol):
    """A bus with these tenants, agents and nodes on it, and the means to look at it and to break it."""

    async def bus(self, party: Party) -> Bus: ...

    async def session(self, party: Party) -> Session: ...

    async def raw(self, sender: Party, to: Party, body: bytes, *, user_id: Party | None) -> None: ...

    async def dead(self, party: Party) -> list[tuple[str, str, bytes]]: ...

    async def cut(self) -> None:
        """Break every connection; the bus itself stays."""

    def down(self) -> AbstractAsyncContextManager[None]:
        """The bus is away meanwhile."""


class MemoryWorld:
    """The bus in memory."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(BROKER, ACME, GLOBEX, ALPHA, ALPHA_NODE)

    async def bus(self, party: Party) -> Bus:
        return self.broker.bus(party)

    async def session(self, party: Party) -> Session:
        return self.broker.session(party)

    async def raw(self, sender: Party, to: Party, body: bytes, *, user_id: Party | None) -> None:
        assert user_id in {None, sender}
        self.broker.put_raw(to, body, user_id=str(user_id) if user_id else None)

    async def dead(self, party: Party) -> list[tuple[str, str, bytes]]:
        return [(letter.code, letter.reason, letter.body) for letter in self.broker.dead[party]]

    async def cut(self) -> None:
        self.broker.interrupt()
        self.broker.restore()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        self.broker.interrupt()
        yield
        self.broker.restore()


class RabbitWorld:
    """A real node behind a proxy that can be cut."""

    def __init__(self, node: RabbitNode, proxy: TcpProxy) -> None:
        self._node = node
        self._proxy = proxy
        self._open: list[RabbitBus] = []

    async def bus(self, party: Party) -> Bus:
        bus = RabbitBus(
            self._node.settings(party, port=self._proxy.port, publish_timeout_s=3.0),
            Metrics(service="t", version="0").bus,
        )
        self._open.append(bus)
        await bus.wait_up(WAIT_S)
        return bus

    async def session(self, party: Party) -> Session:
        settings = self._node.settings(party, port=self._proxy.port)
        session = await open_session(settings, Metrics(service="t", version="0").bus)
        self._open.append(session)
        return session

    async def raw(self, sender: Party, to: Party, body: bytes, *, user_id: Party | None) -> None:
        connection = self._node.connect(sender)
        channel = connection.channel()
        channel.confirm_delivery()
        properties = pika.BasicProperties(user_id=str(user_id) if user_id else None, message_id="m")
        channel.basic_publish(to_exchange(to), "", body, properties)
        connection.close()

    async def dead(self, party: Party) -> list[tuple[str, str, bytes]]:
        connection = self._node.connect()
        channel = connection.channel()
        found = []
        while (got := channel.basic_get(dead_queue(party)))[0] is not None:
            properties, body = got[1], cast("bytes", got[2])
            headers = dict(properties.headers or {})
            found.append((headers["vmport-code"], headers["vmport-reason"], body))
        connection.close()
        return found

    async def cut(self) -> None:
        self._proxy.cut()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        self._proxy.refusing = True
        self._proxy.cut()
        yield
        self._proxy.refusing = False

    async def close(self) -> None:
        for bus in self._open:
            await bus.close()


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.servers)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    node: RabbitNode = request.getfixturevalue("rabbitmq")
    async with TcpProxy(node.port) as proxy:
        real = RabbitWorld(node, proxy)
        yield real
        await real.close()


class Ear:
    """A consumer that keeps what it hears, and can be told to fail."""

    def __init__(self) -> None:
        self.heard: list[AnyEnvelope] = []
        self.letters: list[DeadLetter] = []
        self.fail: Callable[[AnyEnvelope], Exception | None] = lambda _: None
        self.attempts = 0
        self._changed = asyncio.Event()

    async def handle(self, envelope: AnyEnvelope) -> None:
        self.attempts += 1
        self._changed.set()
        if (error := self.fail(envelope)) is not None:
            raise error
        self.heard.append(envelope)

    async def on_dead(self, letter: DeadLetter) -> None:
        self.letters.append(letter)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    @property
    def ids(self) -> list[UUID]:
        return [envelope.id for envelope in self.heard]


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks("test") as group:
        yield group


async def listen(world: World, party: Party, tasks: Tasks) -> Ear:
    ear = Ear()
    bus = await world.bus(party)
    tasks.spawn(bus.consume(ear.handle, on_dead=ear.on_dead), name=f"{party} listens")
    return ear


def sealed(message: Message, source: Party, **more: Any) -> AnyEnvelope:
    return seal(message, source=source, message_id=uuid4(), now=NOW, **more)


def question() -> AnyEnvelope:
    return sealed(ListVms(), ACME)


async def test_published_message_is_heard_as_it_was(world: World, tasks: Tasks) -> None:
    """What one party publishes, the other hears unchanged."""
    ear = await listen(world, BROKER, tasks)
    envelope = question()
    await (await world.bus(ACME)).publish(BROKER, envelope)
    await ear.until(lambda: len(ear.heard) == 1)
    assert ear.heard == [envelope]
    assert ear.letters == []


async def test_message_waits_for_a_late_consumer(world: World, tasks: Tasks) -> None:
    """A message that was confirmed is stored until somebody consumes."""
    envelope = question()
    await (await world.bus(ACME)).publish(BROKER, envelope)
    ear = await listen(world, BROKER, tasks)
    await ear.until(lambda: len(ear.heard) == 1)
    assert ear.ids == [envelope.id]


async def test_messages_come_in_order(world: World, tasks: Tasks) -> None:
    """While nothing fails, an inbox is in order, also beyond one prefetch."""
    sender = await world.bus(ACME)
    sent = [question() for _ in range(100)]
    for envelope in sent:
        await sender.publish(BROKER, envelope)
    ear = await listen(world, BROKER, tasks)
    await ear.until(lambda: len(ear.heard) == len(sent))
    assert ear.ids == [envelope.id for envelope in sent]


async def test_concurrent_publishes_are_all_stored(world: World, tasks: Tasks) -> None:
    """Publishing may be called concurrently, even of one message to one party."""
    ear = await listen(world, BROKER, tasks)
    sender = await world.bus(ACME)
    twice = question()
    sent = [question() for _ in range(30)] + [twice, twice]
    await asyncio.gather(*(sender.publish(BROKER, envelope) for envelope in sent))
    await ear.until(lambda: len(ear.heard) == len(sent))
    assert sorted(map(str, ear.ids)) == sorted(str(envelope.id) for envelope in sent)


async def test_unknown_party_is_undeliverable(world: World) -> None:
    """Publishing to a party that is not set up raises, and does not disturb what is published beside it."""
    sender = await world.bus(BROKER)
    good = [sealed(CancelRefused(port_id=uuid4(), code="unknown_port", detail=""), BROKER) for _ in range(10)]
    results = await asyncio.gather(
        *(sender.publish(ACME, envelope) for envelope in good[:5]),
        sender.publish(tenant("nobody"), good[0]),
        *(sender.publish(ACME, envelope) for envelope in good[5:]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [*[type(None)] * 5, Undeliverable, *[type(None)] * 5]
    assert "tenant.nobody" in str(results[5])


async def test_failing_handler_gets_the_message_again(world: World, tasks: Tasks) -> None:
    """A handler that raises is called again with the same message."""
    ear = await listen(world, BROKER, tasks)
    ear.fail = lambda _: OSError("disk on strike") if ear.attempts < 3 else None
    envelope = question()
    await (await world.bus(ACME)).publish(BROKER, envelope)
    await ear.until(lambda: len(ear.heard) == 1)
    assert ear.attempts == 3
    assert ear.ids == [envelope.id]
    assert ear.letters == []


async def test_failing_conversation_keeps_its_order_and_holds_up_nobody(world: World, tasks: Tasks) -> None:
    """What follows in the same conversation waits for a failed message; other conversations pass it."""
    port, other = uuid4(), uuid4()
    ear = await listen(world, BROKER, tasks)

    def until_others_are_heard(envelope: AnyEnvelope) -> Exception | None:
        waits = envelope.correlationid == port and not any(heard.correlationid == other for heard in ear.heard)
        return OSError("disk on strike") if waits else None

    ear.fail = until_others_are_heard
    sender = await world.bus(ACME)
    first, second = (sealed(CancelPort(port_id=port), ACME) for _ in range(2))
    beside = sealed(CancelPort(port_id=other), ACME)
    for envelope in (first, second, beside):
        await sender.publish(BROKER, envelope)
    await ear.until(lambda: len(ear.heard) == 3)
    assert [envelope.id for envelope in ear.heard if envelope.correlationid == port] == [first.id, second.id]
    assert ear.ids[0] == beside.id


async def test_reject_goes_to_the_dead_letters_at_once(world: World, tasks: Tasks) -> None:
    """A handler's verdict is final: one attempt, a dead letter with its code, and the consumer goes on."""
    ear = await listen(world, BROKER, tasks)
    bad, good = question(), question()
    ear.fail = lambda envelope: Reject("not_today", "the moon is full") if envelope.id == bad.id else None
    sender = await world.bus(ACME)
    await sender.publish(BROKER, bad)
    await sender.publish(BROKER, good)
    await ear.until(lambda: bool(ear.heard) and bool(ear.letters))
    assert ear.attempts == 2
    assert ear.ids == [good.id]
    assert ear.letters[0].sender == str(ACME)
    assert await world.dead(BROKER) == [("not_today", "the moon is full", bad.to_json())]


def altered(envelope: AnyEnvelope, **changes: Any) -> bytes:
    return json.dumps(json.loads(envelope.to_json()) | changes).encode()


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("not_an_envelope", b"\x00\xff not JSON"),
        ("not_an_envelope", b""),
        ("not_an_envelope", b"[]"),
        ("unknown_type", altered(question(), type="vmport.Whatever")),
        ("unknown_version", altered(question(), schemaversion=99)),
        ("invalid_body", altered(question(), data={"surprise": 1})),
        ("invalid_body", altered(question(), source="root")),
        ("too_large", b" " * (4 * 1024 * 1024 + 1)),
        ("forged_sender", sealed(ListVms(), GLOBEX).to_json()),
        ("wrong_role", sealed(PortAccepted(port_id=uuid4()), ACME).to_json()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_understood_or_believed_is_given_up(
    world: World, tasks: Tasks, code: str, body: bytes
) -> None:
    """It lies among the dead letters with its reason, its sender is told of, and the consumer goes on."""
    ear = await listen(world, BROKER, tasks)
    await world.raw(ACME, BROKER, body, user_id=ACME)
    good = question()
    await (await world.bus(ACME)).publish(BROKER, good)
    await ear.until(lambda: bool(ear.heard) and bool(ear.letters))
    assert ear.ids == [good.id]
    assert [(letter.code, letter.sender, letter.body) for letter in ear.letters] == [(code, str(ACME), body)]
    assert [(found, dead_body) for found, _, dead_body in await world.dead(BROKER)] == [(code, body)]


async def test_message_without_proof_of_its_sender_is_not_believed(world: World, tasks: Tasks) -> None:
    """Without the bus's own word on the sender the envelope's word counts nothing."""
    ear = await listen(world, BROKER, tasks)
    await world.raw(ACME, BROKER, question().to_json(), user_id=None)
    await ear.until(lambda: bool(ear.letters))
    assert [(letter.code, letter.sender) for letter in ear.letters] == [("unproven_sender", None)]
    assert ear.heard == []


async def test_dead_letter_callback_that_fails_does_not_stop_the_consumer(world: World, tasks: Tasks) -> None:
    """Nobody could be told; the consumer goes on all the same."""
    ear = Ear()

    async def cannot(letter: DeadLetter) -> None:
        await ear.on_dead(letter)
        raise OSError("no paper")

    bus = await world.bus(BROKER)
    tasks.spawn(bus.consume(ear.handle, on_dead=cannot), name="broker listens")
    await world.raw(ACME, BROKER, b"garbage", user_id=ACME)
    await (await world.bus(ACME)).publish(BROKER, question())
    await ear.until(lambda: bool(ear.heard))
    assert len(ear.letters) == 1


async def test_unacknowledged_message_comes_again_after_a_cut(world: World, tasks: Tasks) -> None:
    """A handler whose connection was lost before the acknowledgement gets the message again."""
    ear = Ear()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(envelope: AnyEnvelope) -> None:
        ear.attempts += 1
        if ear.attempts == 1:
            entered.set()
            await go_on.wait()
        ear.heard.append(envelope)
        ear._changed.set()

    bus = await world.bus(BROKER)
    tasks.spawn(bus.consume(slow), name="broker listens")
    envelope = question()
    await (await world.bus(ACME)).publish(BROKER, envelope)
    async with asyncio.timeout(WAIT_S):
        await entered.wait()
    await world.cut()
    go_on.set()
    await ear.until(lambda: ear.attempts >= 2 and envelope.id in ear.ids)
    assert set(ear.ids) == {envelope.id}


async def test_cancelled_consumer_gives_its_messages_back(world: World, tasks: Tasks) -> None:
    """A consumer that is stopped in the middle loses nothing; the next one gets it."""
    entered = asyncio.Event()

    async def never(_: AnyEnvelope) -> None:
        entered.set()
        await asyncio.Event().wait()

    bus = await world.bus(BROKER)
    first = tasks.spawn(bus.consume(never), name="stuck")
    envelope = question()
    await (await world.bus(ACME)).publish(BROKER, envelope)
    async with asyncio.timeout(WAIT_S):
        await entered.wait()
        first.cancel()
        await asyncio.wait({first})
    ear = await listen(world, BROKER, tasks)
    await ear.until(lambda: bool(ear.heard))
    assert ear.ids == [envelope.id]


async def test_publish_raises_while_the_bus_is_away_and_works_again_after(world: World, tasks: Tasks) -> None:
    """`BusDown` means: not stored as far as anybody knows. Afterwards everybody goes on by itself."""
    ear = await listen(world, BROKER, tasks)
    sender = await world.bus(ACME)
    async with world.down():
        with pytest.raises(BusDown):
            await sender.publish(BROKER, question())
        assert not await sender.ready()
    envelope = question()
    await eventually(lambda: sender.publish(BROKER, envelope))
    await ear.until(lambda: envelope.id in ear.ids)
    assert await sender.ready()


async def eventually(work: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await work()
            except BusDown:
                await asyncio.sleep(0.05)
            else:
                return


async def test_every_session_of_a_tenant_hears_and_leaves_nothing(world: World, tasks: Tasks) -> None:
    """Two sessions hear the same answer; one that comes later hears nothing old."""
    ears = [Ear(), Ear()]
    sessions = [await world.session(ACME) for _ in ears]
    for ear, session in zip(ears, sessions, strict=True):
        tasks.spawn(session.consume(ear.handle), name="session")
    async with asyncio.timeout(WAIT_S):
        for session in sessions:
            assert await session.wait_listening() == 1
    answer = sealed(VmsListed(vms=()), BROKER)
    broker = await world.bus(BROKER)
    await broker.publish(ACME, answer)
    for ear in ears:
        await ear.until(lambda ear=ear: bool(ear.heard))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    late_ear, late = Ear(), await world.session(ACME)
    tasks.spawn(late.consume(late_ear.handle), name="late session")
    async with asyncio.timeout(WAIT_S):
        await late.wait_listening()
    second = sealed(VmsListed(vms=()), BROKER)
    await broker.publish(ACME, second)
    await late_ear.until(lambda: bool(late_ear.heard))
    assert late_ear.ids == [second.id]


async def test_session_says_when_it_may_have_missed_something(world: World, tasks: Tasks) -> None:
    """After a cut a session listens again by itself, and its count tells."""
    ear, session = Ear(), await world.session(ACME)
    tasks.spawn(session.consume(ear.handle), name="session")
    async with asyncio.timeout(WAIT_S):
        assert await session.wait_listening() == 1
    broker = await world.bus(BROKER)
    await world.cut()

    async def listens_anew() -> None:
        if await session.wait_listening() < 2:
            raise BusDown

    await eventually(listens_anew)
    answer = sealed(VmsListed(vms=()), BROKER)
    await eventually(lambda: broker.publish(ACME, answer))
    await ear.until(lambda: bool(ear.heard))
    assert ear.ids == [answer.id]


async def test_close_is_idempotent(world: World) -> None:
    """A bus can be closed twice."""
    bus = await world.bus(BROKER)
    await bus.close()
    await bus.close()
    assert not await bus.ready()


async def test_urgent_messages_wait_behind_nothing(world: World, tasks: Tasks) -> None:
    """They have an inbox of their own: it is delivered while the ordinary one is stuck, and not by its consumer."""
    stuck = asyncio.Event()
    ordinary, urgent = Ear(), Ear()

    async def hang(envelope: AnyEnvelope) -> None:
        ordinary.heard.append(envelope)
        await stuck.wait()

    broker = cast("UrgentBus", await world.bus(BROKER))
    tasks.spawn(broker.consume(hang), name="ordinary")
    tasks.spawn(broker.consume_urgent(urgent.handle, on_dead=urgent.on_dead), name="urgent")
    for _ in range(3):
        await (await world.bus(ACME)).publish(BROKER, question())
    asked = [sealed(QuerySwitchover(port_id=uuid4()), ALPHA_NODE) for _ in range(3)]
    sender = await world.bus(ALPHA_NODE)
    for envelope in asked:
        await sender.publish(BROKER, envelope)
    await urgent.until(lambda: len(urgent.heard) == len(asked))
    assert urgent.ids == [envelope.id for envelope in asked]
    assert all(isinstance(envelope.data, ListVms) for envelope in ordinary.heard)
    stuck.set()


async def test_bad_messages_of_one_party_hold_up_nobody(world: World, tasks: Tasks) -> None:
    """More messages that no handler can act on than the bus hands over at once: another's question is heard at once."""
    ear = await listen(world, BROKER, tasks)
    ear.fail = lambda envelope: OverflowError("date value out of range") if envelope.source == str(ACME) else None
    bad = await world.bus(ACME)
    for _ in range(40):
        await bad.publish(BROKER, question())
    asked = sealed(ListVms(), GLOBEX)
    await (await world.bus(GLOBEX)).publish(BROKER, asked)
    began_s = asyncio.get_running_loop().time()
    await ear.until(lambda: bool(ear.heard))
    assert asyncio.get_running_loop().time() - began_s < 5
    assert ear.ids == [asked.id]
    await ear.until(lambda: len(ear.letters) == 40)
    assert {letter.code for letter in ear.letters} == {"handler_failed"}
    assert ear.attempts == 41


async def test_failing_messages_of_one_party_leave_room_for_others(world: World, tasks: Tasks) -> None:
    """Also when each might succeed later: of one party only a few are held."""
    ear = await listen(world, BROKER, tasks)
    ear.fail = lambda envelope: OSError("disk on strike") if envelope.source == str(ACME) else None
    first = sealed(ListVms(), GLOBEX)
    bad, good = await world.bus(ACME), await world.bus(GLOBEX)
    await bad.publish(BROKER, question())
    await good.publish(BROKER, first)
    await ear.until(lambda: bool(ear.heard))
    for _ in range(40):
        await bad.publish(BROKER, question())
    last = sealed(ListVms(), GLOBEX)
    await good.publish(BROKER, last)
    await ear.until(lambda: len(ear.heard) == 2)
    assert ear.ids == [first.id, last.id]
