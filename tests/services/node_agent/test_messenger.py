"""How a node sends: durably through the outbox, or at once and only if the bus is there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from services.node_agent.messenger import Messenger
from services.node_agent.state.outbox import Outbox
from shared.bus import BusDown
from shared.messages import seal
from shared.messages.porting import InboundOpened, OutboundStarted, QuerySwitchover
from shared.parties import BROKER, donor, node
from shared.testing import MemoryBroker

ME, DONOR = node("alpha", "alpha-1"), donor("alpha")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def messenger(folder: Path, broker: MemoryBroker) -> Messenger:
    """A node's, with its clock stopped."""
    bus = broker.bus(ME)
    outbox = Outbox(folder, bus)
    outbox.open()
    return Messenger(bus, outbox, now=lambda: NOW)


def stored(folder: Path) -> list[Path]:
    """Messages that wait."""
    return list(folder.glob("*.json"))


def test_a_durable_message_is_stored_while_the_bus_is_down(tmp_path: Path) -> None:
    """It waits as a file."""
    broker = MemoryBroker(ME, DONOR)
    broker.interrupt()
    messenger(tmp_path, broker).enqueue(DONOR, OutboundStarted(port_id=uuid4()))
    assert len(stored(tmp_path)) == 1
    assert broker.received(DONOR) == []


async def test_a_message_that_is_published_is_sealed_by_this_node(tmp_path: Path) -> None:
    """Sender and time are this node's; nothing is stored."""
    broker = MemoryBroker(ME, BROKER)
    question = QuerySwitchover(port_id=uuid4())
    await messenger(tmp_path, broker).publish_to_broker(question)
    (envelope,) = broker.received(BROKER)
    assert (envelope.sender, envelope.time, envelope.data) == (ME, NOW, question)
    assert stored(tmp_path) == []


async def test_publishing_needs_the_bus(tmp_path: Path) -> None:
    """Whoever publishes decides what a lost message means."""
    broker = MemoryBroker(ME, DONOR)
    broker.interrupt()
    with pytest.raises(BusDown):
        await messenger(tmp_path, broker).publish(DONOR, InboundOpened(port_id=uuid4()))


def test_an_answer_names_its_cause(tmp_path: Path) -> None:
    """The conversation can be followed in the log of the bus."""
    cause = seal(OutboundStarted(port_id=uuid4()), source=DONOR, message_id=uuid4(), now=NOW)
    messenger(tmp_path, MemoryBroker(ME, DONOR)).enqueue(DONOR, OutboundStarted(port_id=uuid4()), cause=cause)
    (file,) = stored(tmp_path)
    assert str(cause.id) in file.read_text()
