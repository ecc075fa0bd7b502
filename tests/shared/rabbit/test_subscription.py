"""A subscription, over a connection and channels that are played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from pydantic import SecretStr

from shared.bus import DeadLetter
from shared.config import BusSettings
from shared.consumer import Consumer
from shared.messages import AnyEnvelope
from shared.metrics import Metrics
from shared.parties import BROKER
from shared.rabbit.connection import RabbitConnection
from shared.rabbit.subscription import Subscription, Token
from shared.testing import breathe

SETTINGS = BusSettings(url=SecretStr("amqp://broker:x@127.0.0.1/vmport"), reconnect_min_s=0.01, reconnect_max_s=0.01)


class Channel:
    """A channel that can be lost."""

    def __init__(self) -> None:
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_consumer_cancel_callbacks: set[Callable[..., None]] = set()
        self.queues: list[str] = []
        self.deliver: Any = None
        self.acknowledged: list[int] = []

    async def basic_qos(self, *, prefetch_count: int) -> None:
        assert prefetch_count == SETTINGS.prefetch

    async def basic_consume(self, queue: str, callback: Any) -> None:
        self.queues.append(queue)
        self.deliver = callback

    async def close(self) -> None:
        if not self.closing.done():
            self.closing.set_result(None)


class Connection:
    """A connection with these channels; then it is down."""

    purpose = "consume"
    is_up = True
    why_down = "connection refused"

    def __init__(self, channels: list[Channel]) -> None:
        self.channels = channels
        self.went_down = asyncio.Event()

    async def open_channel(self, *, confirms: bool) -> Channel:
        assert not confirms
        if not self.channels:
            self.is_up = False
            self.went_down.set()
            raise OSError("connection refused")
        return self.channels.pop(0)


class Settled:
    """Counts what was given up."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    async def acknowledge(self, token: Token) -> None:
        cast("Channel", token.channel).acknowledged.append(token.tag)

    async def bury(self, token: Token, letter: DeadLetter) -> None:
        self.codes.append(f"{token.exchange} {letter.code} {letter.message_id}")


async def prepare(_: object) -> str:
    """The queue is there."""
    return "vmport.inbox.broker"


async def never(_: AnyEnvelope) -> None:
    """No message of these tests is understood."""
    raise AssertionError


async def test_delivers_across_losses_and_says_why_it_does_not() -> None:
    """Each subscription has a consumer of its own; while there is none, `problem` gives the reason."""
    first, second = Channel(), Channel()
    connection = Connection([first, second])
    subscription = Subscription(cast("RabbitConnection", connection), SETTINGS, cast("Any", prepare))
    settled = Settled()
    metrics = Metrics(service="t", version="0").bus

    def consumer() -> Consumer[Token]:
        return Consumer(party=BROKER, handler=never, settle=settled, metrics=metrics)

    assert subscription.problem() is None
    task = asyncio.ensure_future(subscription.run(consumer))
    for number, channel in enumerate((first, second)):
        async with asyncio.timeout(10):
            await subscription.active.wait()
        assert channel.queues == ["vmport.inbox.broker"]
        assert subscription.problem() is None
        properties = SimpleNamespace(user_id="tenant.acme", message_id="m")
        header = SimpleNamespace(properties=properties)
        await channel.deliver(SimpleNamespace(body=b"?", header=header, delivery_tag=number, exchange="x"))
        await breathe()
        assert channel.acknowledged == [number]
        channel.closing.set_result(None)
        await breathe()
        assert not subscription.active.is_set()
    assert settled.codes == ["x not_an_envelope m"] * 2
    assert subscription.problem() == "RabbitMQ ended the subscription"
    async with asyncio.timeout(10):
        await connection.went_down.wait()
    assert subscription.problem() == "connection refused"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert subscription.problem() is None
