"""A tenant's session on RabbitMQ: a queue of its own, bound to the tenant's exchange, gone with the connection.

Several sessions of one tenant hear the same messages, and the tenant's durable inbox is left alone. Implements
`shared.bus.Session`.
"""

from __future__ import annotations

import asyncio
import secrets

from aiormq.abc import AbstractChannel

from shared.config import BusSettings
from shared.metrics import BusMetrics
from shared.rabbit.bus import RabbitBus
from shared.topology import SESSION_ARGUMENTS, session_queue, to_exchange


class RabbitSession(RabbitBus):
    """Like `RabbitBus`, with a session queue instead of the inbox. Only tenants have the rights for it."""

    def __init__(self, settings: BusSettings, metrics: BusMetrics) -> None:
        super().__init__(settings, metrics)
        self._queue = session_queue(self.party, secrets.token_hex(16))
        self._listened = 0

    async def wait_listening(self) -> int:
        """Return once messages are heard, with how many times that began."""
        await self.consuming.wait()
        return self._listened

    async def _prepare(self, channel: AbstractChannel) -> str:
        # A new name each time: after a lost connection RabbitMQ may still hold the old queue for the old one.
        self._queue = session_queue(self.party, secrets.token_hex(16))
        await channel.queue_declare(self._queue, exclusive=True, auto_delete=True, arguments=dict(SESSION_ARGUMENTS))
        await channel.queue_bind(self._queue, to_exchange(self.party))
        self._listened += 1
        return self._queue


async def open_session(settings: BusSettings, metrics: BusMetrics) -> RabbitSession:
    """A session that RabbitMQ has let in. Raises `BusDown` with the reason, after ``connect_timeout_s`` at most."""
    session = RabbitSession(settings, metrics)
    try:
        session.start()
        await session.wait_up(settings.connect_timeout_s, fail_fast=True)
    except BaseException:
        await asyncio.shield(session.close())
        raise
    return session
