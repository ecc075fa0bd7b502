"""Calls back when a stored deadline passes, also across restarts. Owns waiting; what a deadline means is the handler's.

The handler gets the timer and must take it with ``tx.claim_timer(timer.key, timer.due_at)`` in the transaction that
stores the effect: with two processes on one database both call back, one takes it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from shared.logs import get_logger
from shared.store.engine import StoreDown
from shared.store.store import Store
from shared.store.tables import timers

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timer:
    """A deadline that has passed."""

    key: str
    due_at: datetime
    payload: dict[str, Any]


TimerHandler = Callable[[Timer], Awaitable[None]]


class TimerRunner:
    """One task per store: ``await runner.run()`` until cancelled."""

    def __init__(
        self, store: Store, handler: TimerHandler, *, poll_s: float = 5.0, retry_s: float = 2.0, batch: int = 100
    ) -> None:
        self._store = store
        self._handler = handler
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._batch = batch
        self._held: dict[str, datetime] = {}
        """Timers whose handler failed, and when to try them again; others are not held up by them."""

    async def run(self) -> None:
        """Wait and call back. Another process' timers are noticed within ``poll_s``; a failing handler is called
        again.
        """
        while True:
            self._store.timers_changed.clear()
            try:
                wait_s = await self._step()
            except (StoreDown, SQLAlchemyError):
                log.exception("timers unreadable; trying again")
                wait_s = self._retry_s
            try:
                async with asyncio.timeout(wait_s):
                    await self._store.timers_changed.wait()
            except TimeoutError:
                continue

    async def _step(self) -> float:
        await self.run_due()
        async with self._store.reading() as connection:
            rows = await connection.execute(
                select(timers.c.key, timers.c.due_at).order_by(timers.c.due_at).limit(self._batch)
            )
            waits: list[datetime] = [max(row.due_at, self._held.get(row.key, row.due_at)) for row in rows]
        now = self._store.clock()
        wait_s: float = min([self._poll_s, *(max(0.0, (at - now).total_seconds()) for at in waits)])
        return wait_s

    async def run_due(self) -> int:
        """Call back for each timer that is due by the store's clock; returns how many were. Tests call it with their
        own clock.
        """
        now = self._store.clock()
        self._held = {key: until for key, until in self._held.items() if until > now}
        async with self._store.reading() as connection:
            rows = await connection.execute(
                select(timers).where(timers.c.due_at <= now).order_by(timers.c.due_at, timers.c.key).limit(self._batch)
            )
            due = [Timer(row.key, row.due_at, json.loads(row.payload)) for row in rows if row.key not in self._held]
        for timer in due:
            try:
                await self._handler(timer)
            except Exception:
                # A deadline must not be lost because its handler failed once, nor stop the other deadlines.
                log.exception("timer handler failed; it will be called again", timer=timer.key)
                self._held[timer.key] = now + timedelta(seconds=self._retry_s)
        return len(due)
