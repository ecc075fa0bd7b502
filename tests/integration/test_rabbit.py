"""The bus when RabbitMQ misbehaves: restarts, alarms, dead links, missing and full queues, poison messages."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import cast
from uuid import UUID, uuid4

import pika
import pytest
import structlog
from aiormq.abc import DeliveredMessage

from shared.bus import BusDown, Undeliverable
from shared.config import BusSettings
from shared.logs import port_bound
from shared.messages import AnyEnvelope, seal
from shared.messages.porting import QuerySwitchover
from shared.messages.queries import ListVms
from shared.metrics import Metrics
from shared.parties import BROKER, node, tenant
from shared.rabbit.bus import RabbitBus
from shared.rabbit.connection import RabbitConnection
from shared.tasks import Tasks
from shared.topology import DELIVERY_LIMIT, dead_queue, inbox_queue, to_exchange, urgent_exchange
from tests.support.rabbitmq_node import VHOST, RabbitNode
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.servers

ACME = tenant("acme")
WAIT_S = 45.0


def question() -> AnyEnvelope:
    return seal(ListVms(), source=ACME, message_id=uuid4(), now=datetime.now(UTC))


class Hearing:
    """A bus with a consumer, and what that received."""

    def __init__(self, settings: BusSettings) -> None:
        self.metrics = Metrics(service="t", version="0")
        self.bus = RabbitBus(settings, self.metrics.bus)
        self.bus.start()
        self.ids: list[UUID] = []
        self._changed = asyncio.Event()

    async def handle(self, envelope: AnyEnvelope) -> None:
        self.ids.append(envelope.id)
        self._changed.set()

    async def until(self, ids: set[UUID]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not ids <= set(self.ids):
                self._changed.clear()
                await self._changed.wait()

    @property
    def dead_letters(self) -> float:
        families = [family for family in self.metrics.registry.collect() if family.name == "vmport_bus_dead_letters"]
        return sum(sample.value for family in families for sample in family.samples if sample.name.endswith("_total"))

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks("test") as group:
        yield group


@pytest.fixture
async def broker(rabbitmq: RabbitNode, tasks: Tasks) -> AsyncIterator[Hearing]:
    hearing = Hearing(rabbitmq.settings(BROKER))
    tasks.spawn(hearing.bus.consume(hearing.handle), name="broker listens")
    yield hearing
    await hearing.bus.close()


@pytest.fixture
async def acme(rabbitmq: RabbitNode) -> AsyncIterator[RabbitBus]:
    bus = RabbitBus(rabbitmq.settings(ACME, publish_timeout_s=2.0), Metrics(service="t", version="0").bus)
    await bus.wait_up(WAIT_S)
    yield bus
    await bus.close()


async def eventually(work: Callable[[], Awaitable[None]], *, on: type[Exception] = BusDown) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await work()
            except on:
                await asyncio.sleep(0.1)
            else:
                return


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_confirmed_messages_survive_the_node(
    rabbitmq: RabbitNode, broker: Hearing, acme: RabbitBus, end: str
) -> None:
    """What was confirmed before RabbitMQ died is received after its restart, and so is what is sent next."""
    before = [question() for _ in range(50)]
    for envelope in before:
        await acme.publish(BROKER, envelope)
    await asyncio.to_thread(getattr(rabbitmq, end))
    with pytest.raises(BusDown):
        await acme.publish(BROKER, question())
    assert not await broker.bus.ready()
    await asyncio.to_thread(rabbitmq.start)
    after = question()
    await eventually(lambda: acme.publish(BROKER, after))
    await broker.until({envelope.id for envelope in (*before, after)})
    assert broker.sample("vmport_bus_reconnects_total", connection="consume") >= 1
    await broker.bus.wait_up(WAIT_S)
    assert await broker.bus.check() is None


async def test_dead_link_is_noticed_by_heartbeat(rabbitmq: RabbitNode, tasks: Tasks, acme: RabbitBus) -> None:
    """A connection that is silent but not closed is given up and replaced."""
    async with TcpProxy(rabbitmq.port) as proxy:
        hearing = Hearing(rabbitmq.settings(BROKER, port=proxy.port, heartbeat_s=1))
        tasks.spawn(hearing.bus.consume(hearing.handle), name="broker listens")
        async with asyncio.timeout(WAIT_S):
            await hearing.bus.consuming.wait()
        proxy.stall()
        async with asyncio.timeout(WAIT_S):
            while hearing.bus.consuming.is_set():  # noqa: ASYNC110  # there is no event for its end
                await asyncio.sleep(0.1)
        proxy.cut()
        envelope = question()
        await acme.publish(BROKER, envelope)
        await hearing.until({envelope.id})
        await hearing.bus.close()


async def test_memory_alarm_stops_publishers_but_not_consumers(
    rabbitmq: RabbitNode, acme: RabbitBus, tasks: Tasks
) -> None:
    """While RabbitMQ blocks publishers, stored messages are still received; publishing says why, and recovers."""
    stored = question()
    await acme.publish(BROKER, stored)
    broker = Hearing(rabbitmq.settings(BROKER))
    await broker.bus.wait_up(WAIT_S)
    await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        blocked = ""
        async with asyncio.timeout(WAIT_S):
            while not blocked:
                try:
                    await acme.publish(BROKER, question())
                except BusDown as error:
                    blocked = str(error)
        assert "did not confirm" in blocked
        tasks.spawn(broker.bus.consume(broker.handle), name="broker listens")
        await broker.until({stored.id})
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "absolute", "400MB")
    envelope = question()
    await eventually(lambda: acme.publish(BROKER, envelope))
    await broker.until({envelope.id})
    await broker.bus.close()


async def test_consumer_survives_the_removal_of_its_queue(
    rabbitmq: RabbitNode, broker: Hearing, acme: RabbitBus
) -> None:
    """A deleted inbox is reported, and consumed again when an administrator has created it again."""
    async with asyncio.timeout(WAIT_S):
        await broker.bus.consuming.wait()
    connection = rabbitmq.connect()
    connection.channel().queue_delete(inbox_queue(BROKER))
    connection.close()
    async with asyncio.timeout(WAIT_S):
        while "NOT_FOUND" not in (await broker.bus.check() or ""):  # noqa: ASYNC110  # it is asked, as a probe would
            await asyncio.sleep(0.05)
    with pytest.raises(Undeliverable):
        await acme.publish(BROKER, question())
    await asyncio.to_thread(rabbitmq.import_definitions)
    envelope = question()
    await eventually(lambda: acme.publish(BROKER, envelope), on=Undeliverable)
    await broker.until({envelope.id})


async def test_urgent_message_has_a_way_round(rabbitmq: RabbitNode, broker: Hearing) -> None:
    """On a RabbitMQ whose definitions are older than the urgent inbox it goes to the ordinary one."""
    connection = rabbitmq.connect()
    connection.channel().exchange_delete(urgent_exchange(BROKER))
    connection.close()
    sender = node("alpha", "alpha-1")
    bus = RabbitBus(rabbitmq.settings(sender), Metrics(service="t", version="0").bus)
    try:
        for _ in range(2):
            asked = seal(QuerySwitchover(port_id=uuid4()), source=sender, message_id=uuid4(), now=datetime.now(UTC))
            await bus.publish(BROKER, asked)
            await broker.until({asked.id})
    finally:
        await bus.close()
        await asyncio.to_thread(rabbitmq.import_definitions)


async def test_full_inbox_refuses_what_it_cannot_hold(rabbitmq: RabbitNode, acme: RabbitBus) -> None:
    """A sender whose receiver's inbox is full is told so; nothing that was confirmed is dropped."""
    pattern = f"^{inbox_queue(BROKER)}$"
    await asyncio.to_thread(
        rabbitmq.ctl, "set_policy", "-p", VHOST, "small", pattern, '{"max-length":5}', "--apply-to", "queues"
    )
    confirmed = 0
    try:
        refusal: Undeliverable | None = None
        while refusal is None and confirmed < 50:
            try:
                await acme.publish(BROKER, question())
                confirmed += 1
            except Undeliverable as error:
                refusal = error
        assert "full" in str(refusal)
        connection = rabbitmq.connect()
        declared = connection.channel().queue_declare(inbox_queue(BROKER), passive=True)
        connection.close()
        assert declared.method.message_count == confirmed
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "clear_policy", "-p", VHOST, "small")


async def test_message_that_kills_its_consumers_ends_among_the_dead(rabbitmq: RabbitNode, acme: RabbitBus) -> None:
    """RabbitMQ's delivery limit removes a message that kills every consumer."""
    envelope = question()
    await acme.publish(BROKER, envelope)
    connection = rabbitmq.connect(BROKER)
    for _ in range(DELIVERY_LIMIT + 1):
        channel = connection.channel()
        method, _, _ = next(iter(channel.consume(inbox_queue(BROKER), inactivity_timeout=5)))
        assert method is not None
        channel.close()
    connection.close()
    admin = rabbitmq.connect()
    channel = admin.channel()

    async def is_there() -> None:
        _, properties, body = channel.basic_get(dead_queue(BROKER), auto_ack=True)
        if properties is None:
            raise BusDown
        assert cast("bytes", body) == envelope.to_json()
        assert properties.headers is not None
        assert properties.headers["x-first-death-reason"] == "delivery_limit"

    await eventually(is_there)
    admin.close()


async def test_wrong_password_is_said(rabbitmq: RabbitNode) -> None:
    """A refused login is reported with its reason, within the connect timeout."""
    settings = BusSettings.model_validate({"url": f"amqp://broker:wrong@127.0.0.1:{rabbitmq.port}/{VHOST}"})
    bus = RabbitBus(settings, Metrics(service="t", version="0").bus)
    with pytest.raises(BusDown, match="refuses this user or password"):
        await bus.wait_up(3.0)
    await bus.close()


async def test_wrong_virtual_host_is_said_at_once(rabbitmq: RabbitNode) -> None:
    """A vhost that does not exist, or that the user may not use: the error has its name and where it is set."""
    rabbitmq.ctl("add_vhost", "closed")
    for vhost in ("other", "closed"):
        url = f"amqp://broker:{rabbitmq.password(BROKER)}@127.0.0.1:{rabbitmq.port}/{vhost}"
        bus = RabbitBus(BusSettings.model_validate({"url": url}), Metrics(service="t", version="0").bus)
        said = f"no virtual host '{vhost}', or broker has no right to it; it is the last part of the URL"
        with pytest.raises(BusDown, match=said):
            async with asyncio.timeout(5.0):
                await bus.wait_up(60.0, fail_fast=True)
        await bus.close()


async def test_wrong_password_is_said_at_once(rabbitmq: RabbitNode) -> None:
    """What will not change is not waited for."""
    settings = BusSettings.model_validate({"url": f"amqp://broker:wrong@127.0.0.1:{rabbitmq.port}/{VHOST}"})
    bus = RabbitBus(settings, Metrics(service="t", version="0").bus)
    with pytest.raises(BusDown, match=f"127.0.0.1:{rabbitmq.port} refuses this user or password: broker"):
        async with asyncio.timeout(5.0):
            await bus.wait_up(60.0, fail_fast=True)
    await bus.close()


async def test_connection_and_channels_know_no_port(rabbitmq: RabbitNode, acme: RabbitBus) -> None:
    """A task that outlives a port logs no port id, also if it was started for that port."""
    connection = RabbitConnection(rabbitmq.settings(BROKER), "t")
    contexts: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def arrived(_: DeliveredMessage) -> None:
        contexts.put_nowait(structlog.contextvars.get_contextvars())

    with port_bound(uuid4()), structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logged:
        async with asyncio.timeout(20):
            channel = await connection.open_channel(confirms=False)
            await channel.basic_consume(inbox_queue(BROKER), arrived, no_ack=True)
            await acme.publish(BROKER, question())
            assert await contexts.get() == {}
    await connection.close()
    (line,) = [line for line in logged if line["event"] == "connected to RabbitMQ" and line["connection"] == "t"]
    assert "port_id" not in line


async def test_queue_depth_is_measured(rabbitmq: RabbitNode, acme: RabbitBus) -> None:
    """The gauges show what waits in a party's own queues."""
    for _ in range(3):
        await acme.publish(BROKER, question())
    hearing = Hearing(rabbitmq.settings(BROKER))
    await hearing.bus.measure_queues()
    assert hearing.sample("vmport_bus_queue_messages", queue="inbox") == 3
    assert hearing.sample("vmport_bus_queue_messages", queue="dead") == 0
    await hearing.bus.close()


class RawProperties(pika.BasicProperties):
    """Properties as bytes: what a hostile client can put on the wire."""

    def __init__(self, flags: int, encoded: bytes) -> None:
        super().__init__()
        self._pieces = [struct.pack(">H", flags), encoded]

    def encode(self) -> list[bytes]:
        return self._pieces


def _deep_table() -> bytes:
    table = b""
    for _ in range(2000):
        table = b"\x01xF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


ODDITIES = {
    "headers": pika.BasicProperties(user_id=str(ACME), headers={"x": [1, {"y": None}], "z": b"\x00\xff"}),
    "names": pika.BasicProperties(user_id=str(ACME), content_type="\u00fc" * 100, content_encoding="gzip", priority=9),
    "copies": pika.BasicProperties(user_id=str(ACME), headers={"CC": ["x"], "x-delivery-count": "no"}),
    "year": RawProperties(1 << 6, struct.pack(">Q", 2**63 - 1)),
    "utf-8": RawProperties(1 << 15, b"\x02\xff\xfe"),
    "depth": RawProperties(1 << 13, _deep_table()),
}


@pytest.mark.parametrize("oddity", ODDITIES.values(), ids=ODDITIES.keys())
async def test_odd_properties_stop_nobody(
    rabbitmq: RabbitNode, broker: Hearing, acme: RabbitBus, oddity: pika.BasicProperties
) -> None:
    """What RabbitMQ lets through is dead-lettered at once, and the connection stays."""
    async with asyncio.timeout(WAIT_S):
        await broker.bus.consuming.wait()

    def send() -> None:
        connection = rabbitmq.connect(ACME)
        connection.channel().basic_publish(to_exchange(BROKER), "\u00fc", b"{}", oddity)
        connection.close()

    await asyncio.to_thread(send)
    envelope = question()
    await acme.publish(BROKER, envelope)
    await broker.until({envelope.id})
    assert broker.dead_letters == 1
    assert broker.sample("vmport_bus_reconnects_total", connection="consume") == 0
