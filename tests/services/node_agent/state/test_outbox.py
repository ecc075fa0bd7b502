"""The outbox: what is put in arrives, in order, also after a crash; nobody waits for another receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from services.node_agent.messenger import Messenger
from services.node_agent.state.outbox import Outbox
from shared.backoff import Backoff
from shared.bus import Bus
from shared.messages.porting import InboundOpened, OutboundStarted, Side
from shared.parties import donor, node, recipient
from shared.testing import MemoryBroker

ME, DONOR, RECIPIENT = node("alpha", "alpha-1"), donor("alpha"), recipient("alpha")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def made(folder: Path, bus: Bus) -> tuple[Outbox, Messenger]:
    """An open outbox, and a voice over it."""
    outbox = Outbox(folder, bus, backoff=Backoff(0.01, 0.02))
    outbox.open()
    return outbox, Messenger(bus, outbox, now=lambda: NOW)


@asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[None]:
    """The outbox, emptying itself."""
    task = asyncio.get_running_loop().create_task(outbox.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def waiting(folder: Path) -> int:
    """Messages that wait in an outbox's folder."""
    return len(list(folder.glob("*.json")))


async def empty(folder: Path) -> None:
    """Wait until nothing waits."""
    async with asyncio.timeout(5):
        while waiting(folder):  # noqa: ASYNC110  # files have no event
            await asyncio.sleep(0.005)


async def test_messages_arrive_in_order(tmp_path: Path) -> None:
    """Also those that a former process left."""
    broker = MemoryBroker(ME, DONOR)
    ports = [uuid4() for _ in range(5)]
    _, former = made(tmp_path, broker.bus(ME))
    for port_id in ports[:3]:
        former.enqueue(DONOR, OutboundStarted(port_id=port_id))
    outbox, messenger = made(tmp_path, broker.bus(ME))
    for port_id in ports[3:]:
        messenger.enqueue(DONOR, OutboundStarted(port_id=port_id))
    async with running(outbox):
        await empty(tmp_path)
    assert [port_of(envelope.data) for envelope in broker.received(DONOR)] == ports


def port_of(message: object) -> UUID:
    """Which port a message is about."""
    assert isinstance(message, OutboundStarted | InboundOpened)
    return message.port_id


async def test_a_bus_that_is_down_delays_and_loses_nothing(tmp_path: Path) -> None:
    """It is tried again."""
    broker = MemoryBroker(ME, DONOR)
    outbox, messenger = made(tmp_path, broker.bus(ME))
    broker.interrupt()
    messenger.enqueue(DONOR, OutboundStarted(port_id=uuid4()))
    async with running(outbox):
        await asyncio.sleep(0.05)
        assert waiting(tmp_path) == 1
        broker.restore()
        await empty(tmp_path)
    assert len(broker.received(DONOR)) == 1


async def test_one_receiver_does_not_hold_up_another(tmp_path: Path) -> None:
    """Who is not set up on the bus waits alone."""
    broker = MemoryBroker(ME, RECIPIENT)
    outbox, messenger = made(tmp_path, broker.bus(ME))
    messenger.enqueue(DONOR, OutboundStarted(port_id=uuid4()))
    messenger.enqueue(RECIPIENT, InboundOpened(port_id=uuid4()))
    async with running(outbox), asyncio.timeout(5):
        while not broker.received(RECIPIENT):  # noqa: ASYNC110  # what was published has no event
            await asyncio.sleep(0.005)
    assert waiting(tmp_path) == 1


async def test_a_damaged_message_is_set_aside(tmp_path: Path) -> None:
    """The others go."""
    broker = MemoryBroker(ME, DONOR)
    outbox, messenger = made(tmp_path, broker.bus(ME))
    (tmp_path / "0000000000000000.json").write_text("{}")
    outbox.open()
    messenger.enqueue(DONOR, OutboundStarted(port_id=uuid4()))
    async with running(outbox):
        await empty(tmp_path)
    assert len(broker.received(DONOR)) == 1
    assert (tmp_path / "0000000000000000.damaged").exists()


async def test_each_transfer_reports_to_its_own_agent(tmp_path: Path) -> None:
    """Outbound to the donor agent, inbound to the recipient agent, both of this provider."""
    broker = MemoryBroker(ME)
    _, messenger = made(tmp_path, broker.bus(ME))
    assert (messenger.agent(Side.OUTBOUND), messenger.agent(Side.INBOUND)) == (DONOR, RECIPIENT)
