"""Runs a service's ``serve`` on the in-memory bus."""

from __future__ import annotations

import asyncio
from typing import TypeVar, cast

from shared.config import ServiceSettings
from shared.http import Health
from shared.metrics import Metrics
from shared.rabbit.bus import RabbitBus
from shared.runtime import Runtime, Serve
from shared.testing import MemoryBroker, breathe

S = TypeVar("S", bound=ServiceSettings)


async def serves_until_cancelled(settings: S, serve: Serve[S], *, checks: set[str]) -> None:
    """Start, wait until all these checks and the service itself say yes, cancel."""
    health = Health()
    bus = cast("RabbitBus", MemoryBroker(settings.party).bus(settings.party))
    runtime = Runtime("test", settings, Metrics(service="test", version="0"), health, bus)

    async def run() -> None:
        async with runtime.stack:
            await serve(runtime)

    running = asyncio.get_running_loop().create_task(run())
    async with asyncio.timeout(20):
        while (verdict := await health.verdict()).reasons != {"service": None, **dict.fromkeys(checks)}:
            assert not running.done(), f"it ended: {verdict}"
            await breathe()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
