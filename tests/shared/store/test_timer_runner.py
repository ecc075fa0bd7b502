"""The timer runner: due deadlines reach the handler, once, also after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.parties import BROKER
from shared.store import Store, StoreDown, Timer, TimerRunner, utc_now
from shared.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Stands still."""
    return ManualClock()


@pytest.fixture
async def store(store_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """An open store."""
    async with Store(store_url, BROKER, clock=clock) as opened:
        await opened.create_schema()
        yield opened


class Handler:
    """Claims and remembers."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.handled: list[Timer] = []
        self.failing = False
        self.called = asyncio.Event()

    async def __call__(self, timer: Timer) -> None:
        if self.failing:
            raise ValueError("not now")
        async with self.store.transaction() as tx:
            if await tx.claim_timer(timer.key, timer.due_at):
                self.handled.append(timer)
        self.called.set()


async def arm(store: Store, key: str, after_s: float, **payload: int) -> None:
    """A deadline so many seconds from now."""
    async with store.transaction() as tx:
        await tx.arm(key, tx.now + timedelta(seconds=after_s), payload)


async def test_due_in_order(store: Store, clock: ManualClock) -> None:
    """Only what is due is called, the earliest first, with its payload; and only once."""
    handler = Handler(store)
    runner = TimerRunner(store, handler)
    for key, after_s in (("late", 60.0), ("second", 2.0), ("first", 1.0)):
        await arm(store, key, after_s, n=7)
    assert await runner.run_due() == 0
    await clock.advance(10)
    assert await runner.run_due() == 2
    assert await runner.run_due() == 0
    assert [(timer.key, timer.payload) for timer in handler.handled] == [("first", {"n": 7}), ("second", {"n": 7})]


async def test_failing_handler_is_called_again(store: Store, clock: ManualClock) -> None:
    """A deadline is not lost because its handler failed, and does not spin."""
    handler = Handler(store)
    runner = TimerRunner(store, handler, retry_s=2)
    await arm(store, "key", 0)
    handler.failing = True
    with structlog.testing.capture_logs() as logs:
        assert await runner.run_due() == 1
        assert await runner.run_due() == 0
    assert [(line["event"], line["timer"]) for line in logs] == [
        ("timer handler failed; it will be called again", "key")
    ]
    handler.failing = False
    await clock.advance(2)
    assert await runner.run_due() == 1
    assert len(handler.handled) == 1


async def test_two_runners_one_effect(store: Store) -> None:
    """Two processes see the same deadline; one takes it."""
    handler = Handler(store)
    await arm(store, "key", 0)
    await asyncio.gather(*(TimerRunner(store, handler).run_due() for _ in range(2)))
    assert len(handler.handled) == 1


async def test_runs_by_itself(store_url: str) -> None:
    """The task waits for the earliest deadline, and notices one that is armed meanwhile."""
    async with Store(store_url, BROKER, clock=utc_now) as store:
        await store.create_schema()
        handler = Handler(store)
        task = asyncio.get_running_loop().create_task(TimerRunner(store, handler, poll_s=3600).run())
        await arm(store, "first", 0.05)
        async with asyncio.timeout(5):
            await handler.called.wait()
        handler.called.clear()
        await arm(store, "second", 0.0)
        async with asyncio.timeout(5):
            await handler.called.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [timer.key for timer in handler.handled] == ["first", "second"]


async def test_a_store_that_is_away_does_not_end_it(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timers wait, and fire when the database is back."""
    handler = Handler(store)
    away = iter(range(3))
    real = store.reading

    def reading() -> AbstractAsyncContextManager[AsyncConnection]:
        for _ in away:
            raise StoreDown("x", "connection refused")
        return real()

    monkeypatch.setattr(store, "reading", reading)
    await arm(store, "key", 0)
    await clock.advance(1)
    running = asyncio.get_running_loop().create_task(TimerRunner(store, handler, retry_s=0.001).run())
    await asyncio.wait_for(handler.called.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [timer.key for timer in handler.handled] == ["key"]
