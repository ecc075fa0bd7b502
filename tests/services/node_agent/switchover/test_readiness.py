"""Whether the broker could commit: asked by both nodes, fresh or not at all, and no port waits for an old release."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from services.node_agent.lanes.stream import LaneStream
from services.node_agent.switchover import readiness
from services.node_agent.switchover.readiness import (
    FRESH_S,
    BrokerReadiness,
    SwitchoverReadiness,
    answer_readiness,
)
from shared.bus import BusDown
from shared.messages.base import PortMessage
from shared.messages.porting import QuerySwitchover, SwitchoverState
from tests.support.control_lane import lane

PORT = uuid4()


def word(*, ready: bool | None) -> SwitchoverState:
    """The broker's answer; None: of a release that does not say it."""
    said = {} if ready is None else {"ready": ready}
    return SwitchoverState(port_id=PORT, committed=False, owner="alpha", epoch=1, ended=False, **said)


class Broker:
    """Answers one node's questions, unless it is away. Time is `now_s`."""

    def __init__(self, *, ready: bool | None = True) -> None:
        self.now_s = 100.0
        self.ready = ready
        self.away = False
        self.down = False
        self.heard: list[PortMessage] = []
        self.asked = asyncio.Event()
        self.node = BrokerReadiness(PORT, self.say, clock=lambda: self.now_s)

    async def say(self, message: PortMessage, question: UUID) -> None:
        """Hear a question."""
        self.heard.append(message)
        self.asked.set()
        if self.down:
            raise BusDown
        if not self.away:
            self.node.heard(word(ready=self.ready), question=question)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions every few milliseconds."""
    monkeypatch.setattr(readiness, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(readiness, "ANSWER_WITHIN_S", 0.05)


@asynccontextmanager
async def running(*work: Awaitable[None]) -> AsyncIterator[None]:
    """In the background."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)


async def test_a_yes_is_good_for_some_seconds() -> None:
    """Then it says nothing any more."""
    broker = Broker()
    async with running(broker.node.run()):
        await until(lambda: broker.node.is_ready)
        broker.away = True
        broker.now_s += FRESH_S + 0.1
        assert not broker.node.is_ready
        assert not broker.node.is_fresh
    assert set(map(type, broker.heard)) == {QuerySwitchover}


async def test_an_answer_is_as_old_as_its_question() -> None:
    """One that was under way for long is no news."""
    broker = Broker()
    broker.away = True
    question = uuid4()
    broker.node._asked[question] = broker.now_s
    broker.now_s += FRESH_S + 1
    broker.node.heard(word(ready=True), question=question)
    assert not broker.node.is_ready


async def test_a_no_is_no() -> None:
    """The window may not be open yet."""
    broker = Broker(ready=False)
    async with running(broker.node.run()):
        await until(lambda: broker.node.is_fresh)
        assert not broker.node.is_ready


async def test_a_broker_that_does_not_say_it_is_not_waited_for() -> None:
    """An earlier release answers without the field."""
    broker = Broker(ready=None)
    async with running(broker.node.run()):
        await until(lambda: broker.node.is_ready)


async def test_a_bus_that_is_down_is_asked_again() -> None:
    """Until it is back; what is remembered of questions is bounded."""
    broker = Broker()
    broker.down = True
    async with running(broker.node.run()):
        await until(lambda: len(broker.heard) > 20)
        assert not broker.node.is_ready
        assert len(broker.node._asked) <= 16
        broker.down = False
        await until(lambda: broker.node.is_ready)


async def test_both_nodes_must_have_a_yes() -> None:
    """The donor pauses no guest while the recipient's node hears nothing of the broker, and goes on when it does."""
    here, there = Broker(), Broker()
    there.away = True
    async with lane(lambda stream: answer_readiness(stream, there.node)) as control:
        donor = SwitchoverReadiness(here.node, control, clock=lambda: here.now_s)
        assert donor.problem == "waiting for the broker: no answer"
        async with running(donor.run()):
            await until(lambda: here.node.is_ready and len(there.heard) > 3)
            assert donor.problem == "waiting for the broker: the recipient's node has no answer from it"
            there.away = False
            await until(lambda: donor.problem is None)
            there.away = True
            here.now_s += FRESH_S + 1
            there.now_s += FRESH_S + 1
            await until(lambda: here.node.is_ready)
            assert donor.problem is not None


async def test_a_recipient_of_an_earlier_release_is_not_waited_for() -> None:
    """It resets a stream that it does not know."""

    async def refuse(stream: LaneStream) -> None:
        stream.reset("no stream 'ready' is expected")

    here = Broker()
    async with lane(refuse) as control:
        donor = SwitchoverReadiness(here.node, control, clock=lambda: here.now_s)
        async with running(donor.run()):
            await until(lambda: donor.problem is None)


async def test_a_node_that_asks_nobody_waits_for_nobody() -> None:
    """As in tests without a broker; a donor that asks such a recipient hears a reset."""
    here = Broker()
    async with lane(lambda stream: answer_readiness(stream, None)) as control:
        nobody = SwitchoverReadiness(None, control, clock=lambda: 0.0)
        await nobody.run()
        assert nobody.problem is None
        donor = SwitchoverReadiness(here.node, control, clock=lambda: here.now_s)
        async with running(donor.run()):
            await until(lambda: donor.problem is None)


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), -timedelta(minutes=10)])
async def test_the_brokers_clock_is_learned(ahead: timedelta) -> None:
    """By its answers, each of which was sent between question and arrival."""
    here = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    question = uuid4()

    async def publish(_: PortMessage, __: UUID) -> None:
        return

    node = BrokerReadiness(PORT, publish, clock=lambda: 100.0, now=lambda: here)
    assert node.brokers_now() == here
    node._asked[question] = 99.9
    node.heard(word(ready=True), question=question, sent_at=here + ahead)
    assert abs(node.brokers_now() - here - ahead) < timedelta(seconds=1)
