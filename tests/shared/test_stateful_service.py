"""The frame of a service that keeps state: each message once, in time, in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from prometheus_client import CollectorRegistry

from shared.bus import Reject
from shared.messages import AnyEnvelope, Envelope, Message, PortMessage, seal
from shared.messages.porting import AbortTransfer, PortingFixed, Side, TransferAborted
from shared.messages.queries import ListPorts, ListVms, Question
from shared.messages.service_change import CancelPort
from shared.metrics import StoreMetrics
from shared.parties import BROKER, recipient, tenant
from shared.stateful_service import ByType, StatefulService
from shared.store import Store, StoreDown, Timer, Transaction
from shared.testing import ManualClock, MemoryBroker, breathe

ACME = tenant("acme")
BETA = recipient("beta")
PORT = UUID(int=7)


class Service(StatefulService):
    """Notes what it is given."""

    def __init__(self, store: Store, broker: MemoryBroker) -> None:
        super().__init__(store, broker.bus(BROKER), StoreMetrics(CollectorRegistry()))
        self.calls: list[object] = []
        self.failures: list[Exception] = []
        self.handlers.on(CancelPort, self.cancel)
        self.handlers.on(PortMessage, self.any_port)
        self.handlers.on_every(Question, self.question)

    async def start(self) -> None:
        """Make the tables."""
        await self.store.create_schema()
        self.calls.append("started")

    async def cancel(self, tx: Transaction, envelope: Envelope[CancelPort]) -> None:
        """Answer, then perhaps fail."""
        await tx.send(ACME, ListVms(), cause=envelope)
        if self.failures:
            raise self.failures.pop()
        self.calls.append(envelope.data)

    async def any_port(self, tx: Transaction, envelope: Envelope[PortMessage]) -> None:
        """For port messages of all other types."""
        assert tx.now == self.store.clock()
        self.calls.append(("port", type(envelope.data)))

    async def question(self, envelope: Envelope[Question]) -> None:
        """For each delivery."""
        self.calls.append(type(envelope.data))

    async def time_passed(self, tx: Transaction, timer: Timer) -> None:
        """Note it."""
        assert tx.now >= timer.due_at
        self.calls.append(timer.key)

    def loops(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """One more."""
        return {"more": self._more()}

    async def _more(self) -> None:
        self.calls.append("loop")


@pytest.fixture
def clock() -> ManualClock:
    """Stands still."""
    return ManualClock()


@pytest.fixture
def broker() -> MemoryBroker:
    """With the service and a tenant."""
    return MemoryBroker(BROKER, ACME)


@pytest.fixture
async def service(tmp_path: Path, broker: MemoryBroker, clock: ManualClock) -> AsyncIterator[Service]:
    """With its tables, not running."""
    async with Store(f"sqlite:///{tmp_path}/s.db", BROKER, clock=clock) as store:
        made = Service(store, broker)
        await made.start()
        made.calls.clear()
        yield made


def sealed(message: Message, clock: ManualClock, *, lifetime_s: float = 60) -> AnyEnvelope:
    """From the tenant."""
    deadline = clock() + timedelta(seconds=lifetime_s)
    return seal(message, source=ACME, message_id=uuid4(), now=clock(), deadline=deadline)


async def test_a_message_is_handled_once(service: Service, clock: ManualClock) -> None:
    """A message that comes again changes nothing, and sends nothing."""
    envelope = sealed(CancelPort(port_id=PORT), clock)
    await service.handle(envelope)
    await service.handle(envelope)
    assert service.calls == [CancelPort(port_id=PORT)]
    assert await service.store.outbox_depth() == 1


async def test_a_handler_that_fails_leaves_nothing(service: Service, clock: ManualClock) -> None:
    """Neither what it has sent nor the mark that the message was handled."""
    envelope = sealed(CancelPort(port_id=PORT), clock)
    service.failures.append(RuntimeError("boom"))
    with pytest.raises(RuntimeError):
        await service.handle(envelope)
    assert await service.store.outbox_depth() == 0
    await service.handle(envelope)
    assert service.calls == [CancelPort(port_id=PORT)]


async def test_what_is_registered_for_every_delivery_is_called_again(service: Service, clock: ManualClock) -> None:
    """A question is answered as often as it is asked."""
    envelope = sealed(ListPorts(), clock)
    await service.handle(envelope)
    await service.handle(envelope)
    assert service.calls == [ListPorts, ListPorts]


async def test_the_own_type_is_found_before_its_base(service: Service, clock: ManualClock) -> None:
    """A handler for all port messages has those that have none of their own."""
    aborted = TransferAborted(port_id=PORT, side=Side.INBOUND, guest_running=True)
    await service.handle(sealed(aborted, clock))
    await service.handle(sealed(CancelPort(port_id=PORT), clock))
    assert service.calls == [("port", TransferAborted), CancelPort(port_id=PORT)]


async def test_a_type_without_a_handler_is_rejected(service: Service, clock: ManualClock) -> None:
    """It becomes a dead letter that names the type."""
    with pytest.raises(Reject, match="Message") as caught:
        await service.handle(sealed(Message(), clock))
    assert caught.value.code == "not_for_me"


async def test_a_type_is_registered_once() -> None:
    """Two handlers for one type are a mistake in the code."""
    table: ByType[int] = ByType()
    table.add(PortingFixed, 1)
    with pytest.raises(ValueError, match="PortingFixed"):
        table.add(PortingFixed, 2)
    assert (table.find(PortingFixed), table.find(AbortTransfer)) == (1, None)


async def test_an_expired_message_is_ignored(service: Service, clock: ManualClock) -> None:
    """The log says so: as a warning where somebody waited, else for developers only."""
    late = [sealed(message, clock, lifetime_s=1) for message in (CancelPort(port_id=PORT), ListVms())]
    await clock.advance(2)
    processors = [structlog.contextvars.merge_contextvars]
    with structlog.testing.capture_logs(processors=processors) as logs:
        for envelope in late:
            await service.handle(envelope)
    assert service.calls == []
    assert [(line["event"], line["log_level"], line["message"], line.get("port_id")) for line in logs] == [
        ("expired message ignored", "warning", "CancelPort", str(PORT)),
        ("expired message ignored", "debug", "ListVms", None),
    ]


async def test_a_timer_is_claimed_once(service: Service, clock: ManualClock) -> None:
    """A deadline that was moved or taken meanwhile is not handled."""
    async with service.store.transaction() as tx:
        await tx.arm("key", clock())
    due = Timer("key", clock(), {})
    await service.on_timer(due)
    await service.on_timer(due)
    assert service.calls == ["key"]


async def test_it_runs_until_it_is_cancelled(service: Service, broker: MemoryBroker, clock: ManualClock) -> None:
    """Started first, then ready; messages in and out, timers and its own loops all run."""
    async with service.store.transaction() as tx:
        await tx.arm("key", clock())
    ready: list[list[object]] = []
    running = asyncio.get_running_loop().create_task(service.run(lambda: ready.append(list(service.calls))))
    await broker.bus(ACME).publish(BROKER, sealed(CancelPort(port_id=PORT), clock))
    async with asyncio.timeout(10):
        while not broker.received(ACME) or "key" not in service.calls:
            await breathe()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert ready == [["started"]]
    assert {"loop", "key", CancelPort(port_id=PORT)} <= set(service.calls)


async def test_the_store_answers_or_says_why_not(service: Service, tmp_path: Path, broker: MemoryBroker) -> None:
    """For readiness; no password is in the text."""
    assert await service.check_store() is None
    away = Store(f"postgresql://me:secret@/db?host={tmp_path}", BROKER)
    problem = await Service(away, broker).check_store()
    await away.close()
    assert problem is not None
    assert "secret" not in problem


@pytest.mark.parametrize("ahead_s", [600, -600])
async def test_a_deadline_is_judged_on_its_senders_clock(service: Service, clock: ManualClock, ahead_s: int) -> None:
    """A node whose clock is wrong by ten minutes is heard all the same, and what is truly late is late; it is named."""
    ahead = timedelta(seconds=ahead_s)

    def from_node(sent_s: float) -> AnyEnvelope:
        sent_at = clock() + ahead - timedelta(seconds=sent_s)
        message = TransferAborted(port_id=PORT, side=Side.INBOUND, guest_running=False)
        return seal(message, source=BETA, message_id=uuid4(), now=sent_at, deadline=sent_at + timedelta(seconds=30))

    with structlog.testing.capture_logs() as logs:
        await service.handle(from_node(0))
        await clock.advance(5)
        service.calls.clear()
        await service.handle(from_node(0))
    assert service.calls == [("port", TransferAborted)]
    assert [line["ahead_s"] for line in logs if line["event"] == "clock differs"] == [ahead_s]
    service.calls.clear()
    await service.handle(from_node(40))
    assert service.calls == []


async def test_a_clock_that_agrees_again_is_named(service: Service, clock: ManualClock) -> None:
    """The metric goes back to zero."""
    with structlog.testing.capture_logs() as logs:
        for ahead_s in (600, 0, 0, 0):
            now = clock() + timedelta(seconds=ahead_s)
            message = TransferAborted(port_id=PORT, side=Side.INBOUND, guest_running=False)
            await service.handle(seal(message, source=BETA, message_id=uuid4(), now=now))
            await clock.advance(2)
    assert [line["event"] for line in logs if line["event"].startswith("clock")] == [
        "clock differs",
        "clock agrees again",
    ]
    assert service._clock_offset_seconds.labels(str(BETA))._value.get() == 0


async def test_a_store_that_is_away_is_waited_for(service: Service, clock: ManualClock) -> None:
    """The message is not given up, and its handler is called until the database is back."""
    service.failures.extend(StoreDown("x", "locked") for _ in range(3))
    with structlog.testing.capture_logs() as lines:
        await service.handle(sealed(CancelPort(port_id=PORT), clock))
    assert service.calls == [CancelPort(port_id=PORT)]
    assert [line["event"] for line in lines] == ["store unavailable; waiting"] * 3
