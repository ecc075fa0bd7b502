"""One named connection to RabbitMQ that is kept up, and channels on it. Owns reconnecting; knows no message, no queue.

aio_pika's robust connection is not used: it re-declares what we may not declare, and hides when a channel was away,
which a consumer must know (its unacknowledged deliveries are gone). Channels are used below aio_pika's message classes,
which raise on odd properties (an unknown delivery mode) before anybody could dead-letter the message.

A connection outlives the port that happened to need it first. So its tasks run in an empty context: no log line of a
connection carries the id of a port.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import ssl
import time
from collections.abc import Callable
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from aiormq.abc import AbstractChannel
from pamqp.common import FieldTable

from shared.backoff import Backoff
from shared.bus import BusDown
from shared.config import BusSettings
from shared.logs import get_logger
from shared.metrics import BusMetrics
from shared.rabbit.channels import ChannelNumbers
from shared.rabbit.failures import Failure, explain
from shared.rabbit.transport import TolerantTransport
from shared.tasks import Tasks

log = get_logger(__name__)

LOST = (AMQPError, ChannelInvalidStateError, ConnectionError, OSError, RuntimeError, TimeoutError)
"""What aio_pika raises when a connection or channel is gone or cannot be made."""

STEADY_AFTER_S = 5.0
"""When a connection that lived this long is lost, the pauses between attempts start from the shortest again."""

CLOSE_TIMEOUT_S = 3.0


def raise_if_cancelled() -> None:
    """Raise CancelledError if this task was asked to end; to be called where one of `LOST` was caught.

    aiormq answers a cancellation with the error of its channel when both come together; the cancellation would be lost.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class RabbitConnection:
    """Connects in the background from `start` until `close`, again and again, with exponential back-off and jitter."""

    def __init__(self, settings: BusSettings, purpose: str, *, metrics: BusMetrics | None = None) -> None:
        self._settings = settings
        self.purpose = purpose
        self._metrics = metrics
        self._backoff = Backoff(settings.reconnect_min_s, settings.reconnect_max_s)
        self._tasks = Tasks(f"rabbitmq {purpose}")
        self._connection: AbstractConnection | None = None
        self._up = asyncio.Event()
        self._changed = asyncio.Event()
        self._failure = Failure("not connected yet")
        self._transport = TolerantTransport()
        self._numbers = ChannelNumbers(0)
        self._closed = False
        self._started = False
        if metrics is not None:
            metrics.connected.labels(purpose).set(0)
            metrics.reconnects_total.labels(purpose)

    @property
    def is_up(self) -> bool:
        """Whether the connection stands now."""
        return self._up.is_set()

    @property
    def why_down(self) -> str:
        """The reason of the last failure, in words."""
        return self._failure.reason

    def start(self) -> None:
        """Begin to connect; idempotent. Needs a running loop."""
        if not self._started and not self._closed:
            self._started = True
            contextvars.Context().run(self._tasks.spawn, self._keep_up(), name="keep up")

    async def wait_answered(self) -> None:
        """Return once the connection stands; raises `BusDown` as soon as trying again cannot help. Else unbounded."""
        self.start()
        while not self.is_up:
            if self._failure.final:
                raise self.down()
            await self._changed.wait()

    async def close(self) -> None:
        """Disconnect for good; idempotent, bounded."""
        self._closed = True
        await self._tasks.close()

    async def open_channel(self, *, confirms: bool) -> AbstractChannel:
        """A new channel on the connection, once it stands; the caller bounds that wait. Raises one of `LOST`."""
        self.start()
        await self._up.wait()
        connection = self._connection
        if connection is None:
            raise ChannelInvalidStateError(self.why_down)
        try:
            # A channel's reader logs and calls back; a channel may serve many ports.
            return await contextvars.Context().run(asyncio.ensure_future, self._open(connection, confirms=confirms))
        except asyncio.CancelledError:
            # A dying connection cancels what waits on it; then nobody asked this task to end.
            raise_if_cancelled()
            raise ChannelInvalidStateError("the connection was lost") from None

    async def _open(self, connection: AbstractConnection, *, confirms: bool) -> AbstractChannel:
        transport = connection.transport
        if transport is None:
            raise ChannelInvalidStateError("the connection was lost")
        number = self._numbers.take(transport.connection.channels)
        channel = connection.channel(number, publisher_confirms=confirms, on_return_raises=confirms)
        async with asyncio.timeout(self._settings.connect_timeout_s):
            await channel.initialize()
        return await channel.get_underlay_channel()

    def down(self) -> BusDown:
        """The error for a caller who cannot wait longer."""
        return BusDown(f"RabbitMQ at {self._settings.shown} cannot be used: {self.why_down}")

    async def _keep_up(self) -> None:
        failures, connected_before = 0, False
        try:
            while True:
                since = time.monotonic()
                try:
                    await self._connect()
                except LOST as error:
                    self._fell(self._explain(error), level="warning" if failures == 0 else "info")
                else:
                    since = time.monotonic()
                    self._rose(again=connected_before)
                    connected_before = True
                    self._fell(await self._until_lost(), level="warning")
                failures = 1 if time.monotonic() - since > STEADY_AFTER_S else failures + 1
                await asyncio.sleep(self._backoff.delay_s(failures, random.random()))  # noqa: S311  # jitter
        finally:
            await self._disconnect()

    async def _connect(self) -> None:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.ca_file) if settings.tls else None
        url = make_url(
            host=settings.host,
            port=settings.port,
            login=str(settings.party),
            password=settings.password(),
            virtualhost=settings.vhost,
            ssl=settings.tls,
            heartbeat=settings.heartbeat_s,
        )
        name: FieldTable = {"connection_name": f"{settings.party} {self.purpose}"}
        connection = aio_pika.Connection(url, ssl_context=context, client_properties=name)
        self._transport = connection.kwargs["transport_factory"] = TolerantTransport()
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await connection.connect()
        except BaseException:
            await _close_quietly(connection)
            raise
        if connection.transport is not None:
            self._numbers = ChannelNumbers(connection.transport.connection.connection_tune.channel_max or 0)
        self._connection = connection

    async def _until_lost(self) -> Failure:
        """Why the connection went."""
        connection = self._connection
        if connection is None or connection.transport is None:
            return Failure("closed at once")
        closing = connection.transport.connection.closing
        await asyncio.wait({closing})
        await _close_quietly(connection)
        if closing.cancelled():
            return Failure("no heartbeat")
        error = closing.exception()
        return self._explain(error) if error else Failure("closed")

    def _explain(self, error: BaseException) -> Failure:
        return explain(error, self._settings, said=self._transport.last_word)

    def _tell(self) -> None:
        """Wake who waits for the next change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _rose(self, *, again: bool) -> None:
        self._up.set()
        self._tell()
        if self._metrics is not None:
            self._metrics.connected.labels(self.purpose).set(1)
            if again:
                self._metrics.reconnects_total.labels(self.purpose).inc()
        log.info("connected to RabbitMQ", connection=self.purpose, address=self._settings.shown, again=again)

    def _fell(self, failure: Failure, *, level: str) -> None:
        self._up.clear()
        self._connection = None
        self._failure = failure
        self._tell()
        if self._metrics is not None:
            self._metrics.connected.labels(self.purpose).set(0)
        say: Callable[..., Any] = log.warning if level == "warning" else log.info
        say("no connection to RabbitMQ", connection=self.purpose, address=self._settings.shown, reason=failure.reason)

    async def _disconnect(self) -> None:
        self._up.clear()
        connection, self._connection = self._connection, None
        self._failure = Failure("closed by this process")
        if self._metrics is not None:
            self._metrics.connected.labels(self.purpose).set(0)
        if connection is not None:
            await _close_quietly(connection)


async def _close_quietly(connection: AbstractConnection) -> None:
    """Close, also a connection that is lost already: only then does aio_pika release what it holds for it."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()
    except LOST as error:
        log.debug("connection did not close cleanly", error=str(error))
