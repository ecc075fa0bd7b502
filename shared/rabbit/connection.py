"""One named connection to RabbitMQ that is kept up, and channels on it. Owns reconnecting; knows no message, no queue.

With the other ``rabbit*`` modules the only place that knows aio_pika. Its robust connection is not used: it re-declares
what we may not declare, and hides when a channel was away, which a consumer must know (its unacknowledged deliveries
are gone). Channels are used below aio_pika's message classes, which raise on odd properties (an unknown delivery mode)
before anybody could dead-letter the message.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ProbableAuthenticationError,
)
from aiormq.abc import AbstractChannel
from pamqp.common import FieldTable

from shared.backoff import Backoff
from shared.bus import BusDown
from shared.config import BusSettings
from shared.logs import get_logger
from shared.metrics import BusMetrics
from shared.rabbit.transport import TolerantTransport
from shared.tasks import Tasks

log = get_logger(__name__)

LOST = (AMQPError, ChannelInvalidStateError, ConnectionError, OSError, RuntimeError, TimeoutError)
"""What aio_pika raises when a connection or channel is gone or cannot be made."""

STEADY_AFTER_S = 5.0
"""A connection that lived this long starts the back-off anew when it is lost."""

CLOSE_TIMEOUT_S = 3.0


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
        self._why_down = "not connected yet"
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
        return self._why_down

    def start(self) -> None:
        """Begin to connect; idempotent. Needs a running loop."""
        if not self._started and not self._closed:
            self._started = True
            self._tasks.spawn(self._keep_up(), name="keep up")

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
            raise ChannelInvalidStateError(self._why_down)
        channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        async with asyncio.timeout(self._settings.connect_timeout_s):
            await channel.initialize()
        return await channel.get_underlay_channel()

    def down(self) -> BusDown:
        """The error for a caller who cannot wait longer."""
        return BusDown(f"RabbitMQ at {self._settings.shown} cannot be used ({self.purpose}): {self._why_down}")

    async def _keep_up(self) -> None:
        failures, connected_before = 0, False
        try:
            while True:
                since = time.monotonic()
                try:
                    await self._connect()
                except LOST as error:
                    self._fell(_explain(error), level="warning" if failures == 0 else "info")
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
        connection.kwargs["transport_factory"] = TolerantTransport()
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await connection.connect()
        except BaseException:
            await _close_quietly(connection)
            raise
        self._connection = connection

    async def _until_lost(self) -> str:
        """Why the connection went."""
        connection = self._connection
        if connection is None or connection.transport is None:
            return "closed at once"
        closing = connection.transport.connection.closing
        await asyncio.wait({closing})
        await _close_quietly(connection)
        if closing.cancelled():
            return "no heartbeat"
        error = closing.exception()
        return _explain(error) if error else "closed"

    def _rose(self, *, again: bool) -> None:
        self._up.set()
        if self._metrics is not None:
            self._metrics.connected.labels(self.purpose).set(1)
            if again:
                self._metrics.reconnects_total.labels(self.purpose).inc()
        log.info("connected to RabbitMQ", connection=self.purpose, address=self._settings.shown, again=again)

    def _fell(self, why: str, *, level: str) -> None:
        self._up.clear()
        self._connection = None
        self._why_down = why
        if self._metrics is not None:
            self._metrics.connected.labels(self.purpose).set(0)
        say: Callable[..., Any] = log.warning if level == "warning" else log.info
        say("no connection to RabbitMQ", connection=self.purpose, address=self._settings.shown, reason=why)

    async def _disconnect(self) -> None:
        self._up.clear()
        connection, self._connection = self._connection, None
        self._why_down = "closed by this process"
        if self._metrics is not None:
            self._metrics.connected.labels(self.purpose).set(0)
        if connection is not None:
            await _close_quietly(connection)


async def _close_quietly(connection: AbstractConnection) -> None:
    """Close, also what is lost already: aio_pika's books of it are only then closed, too."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()
    except LOST as error:
        log.debug("a connection did not close in order", error=str(error))


def _explain(error: BaseException) -> str:
    """A reason for logs and health checks, without secrets (aio_pika's texts name no password)."""
    match error:
        case ProbableAuthenticationError() | AuthenticationError():
            return "RabbitMQ refuses this user or password"
        case TimeoutError():
            return "no answer in time"
        case _:
            return f"{error}" or type(error).__name__
