"""The broker as a real process over a real RabbitMQ: a whole port, a kill in the middle, and how fast switchover is
granted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from shared.bus import Handler
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.porting import OutboundStarted, StartOutbound, SwitchoverGranted
from shared.messages.service_change import PortCompleted
from shared.metrics import Metrics
from shared.parties import BROKER, Party
from shared.rabbit.bus import RabbitBus
from shared.store import utc_now
from shared.tasks import Tasks
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    VM,
    capacity,
    guest_paused,
    inventory,
    request,
    request_switchover,
)
from tests.support.broker_world import Part, good_parts
from tests.support.rabbitmq_node import RabbitNode

pytestmark = pytest.mark.servers

LIMIT_S = 40


class Play:
    """The tenant and the providers, each with its own connection."""

    def __init__(self, node: RabbitNode, tasks: Tasks, port_id: UUID) -> None:
        self.parts: dict[tuple[Party, type[Message]], Part] = good_parts(port_id, utc_now())
        self.heard: list[tuple[Party, Message, float]] = []
        self.changed = asyncio.Event()
        self.buses = {
            party: RabbitBus(node.settings(party), Metrics(service="t", version="0").bus)
            for party in (ACME, ALPHA, BETA, ALPHA_NODE, BETA_NODE)
        }
        for party, bus in self.buses.items():
            tasks.spawn(bus.consume(self._handler(party)), name=str(party))

    def _handler(self, party: Party) -> Handler:
        async def handle(envelope: AnyEnvelope) -> None:
            self.heard.append((party, envelope.data, time.perf_counter()))
            self.changed.set()
            part = self.parts.get((party, type(envelope.data)))
            for speaker, message in part(envelope) if part else []:
                await self.say(speaker, message, cause=envelope)

        return handle

    async def say(self, party: Party, message: Message, *, cause: AnyEnvelope | None = None) -> None:
        """A party sends the broker a message."""
        envelope = seal(message, source=party, message_id=uuid4(), now=utc_now(), cause=cause)
        await self.buses[party].publish(BROKER, envelope)

    async def until(self, party: Party, kind: type[Message]) -> float:
        """Wait until the party received such a message; returns when, in seconds of the performance counter."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                self.changed.clear()
                for who, message, at_s in self.heard:
                    if who == party and type(message) is kind:
                        return at_s
                await self.changed.wait()

    async def close(self) -> None:
        """Close all connections."""
        for bus in self.buses.values():
            await bus.close()


class Process:
    """``vmport-broker`` with a configuration file."""

    def __init__(self, directory: Path, node: RabbitNode) -> None:
        self.config = directory / "broker.toml"
        url = node.settings(BROKER).url.get_secret_value()
        self.config.write_text(
            f'[bus]\nurl = "{url}"\nreconnect_max_s = 1\n[store]\nurl = "sqlite:///{directory}/ledger.db"\n'
        )
        self.output = directory / "broker.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; it connects in the background."""
        with self.output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "import sys; from services.broker.main import main; sys.exit(main())",
                "--config",
                str(self.config),
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    async def end(self, number: signal.Signals) -> int:
        """End it with a signal; returns its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(number)
        return await asyncio.wait_for(process.wait(), 30)

    async def close(self) -> None:
        """Kill it if it still runs."""
        if self._process is not None:
            await self.end(signal.SIGKILL)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    """Background work of a test."""
    async with Tasks("test") as made:
        yield made


@pytest.fixture
async def broker(rabbitmq: RabbitNode, tmp_path: Path) -> AsyncIterator[Process]:
    """A running broker."""
    process = Process(tmp_path, rabbitmq)
    await process.start()
    yield process
    await process.close()


async def test_killed_in_the_middle(rabbitmq: RabbitNode, broker: Process, tasks: Tasks) -> None:
    """A broker that is killed while memory is moving comes back and completes the port; then it stops in order."""
    port_id = uuid4()
    play = Play(rabbitmq, tasks, port_id)
    play.parts[ALPHA, StartOutbound] = lambda _: [(ALPHA, OutboundStarted(port_id=port_id))]
    await play.say(ALPHA, inventory(utc_now(), VM))
    await play.say(BETA, capacity(utc_now()))
    await play.say(ACME, request(port_id=port_id))
    await play.until(ALPHA, StartOutbound)
    await broker.end(signal.SIGKILL)
    await play.say(ALPHA_NODE, guest_paused().model_copy(update={"port_id": port_id}))
    await play.say(BETA_NODE, request_switchover().model_copy(update={"port_id": port_id}))
    await broker.start()
    await play.until(BETA_NODE, SwitchoverGranted)
    await play.until(ACME, PortCompleted)
    for party in (ALPHA, BETA):
        await play.until(party, PortCompleted)
    assert await broker.end(signal.SIGTERM) == 0, broker.output.read_text()
    await play.close()


async def test_switchover_is_granted_quickly(
    rabbitmq: RabbitNode, broker: Process, tasks: Tasks, record_property: Callable[[str, object], None]
) -> None:
    """Request, commit with a synced disk, grant: much shorter than the downtime that a tenant may ask for."""
    port_id = uuid4()
    play = Play(rabbitmq, tasks, port_id)
    play.parts[ALPHA, StartOutbound] = lambda _: [(ALPHA, OutboundStarted(port_id=port_id))]
    await play.say(ALPHA, inventory(utc_now(), VM))
    await play.say(BETA, capacity(utc_now()))
    await play.say(ACME, request(port_id=port_id))
    await play.until(ALPHA, StartOutbound)
    asked_s = time.perf_counter()
    await play.say(ALPHA_NODE, guest_paused().model_copy(update={"port_id": port_id}))
    await play.say(BETA_NODE, request_switchover().model_copy(update={"port_id": port_id}))
    granted_s = await play.until(BETA_NODE, SwitchoverGranted) - asked_s
    record_property("switchover_grant_ms", round(granted_s * 1000, 1))
    assert granted_s < 0.5, broker.output.read_text()
    await play.until(ACME, PortCompleted)
    await play.close()
