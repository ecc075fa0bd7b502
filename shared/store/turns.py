"""Who may use the database next: urgent work first. Owns the order of work, no connection.

A guest stands still while its switchover is decided. So work that does so is *urgent*: while some is in hand, ordinary
work that has not begun waits, and what has begun ends (transactions are short). On SQLite, which has one writer, the
writer's lock passes to urgent work first. Ordinary work waits a bounded time only, so a flood of urgent messages slows
it down and does not stop it.

Whether the work at hand is urgent is kept in a context variable: the handlers of both kinds are the same code.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

PATIENCE_S = 0.5
"""How long ordinary work gives way before it goes on beside urgent work."""

_urgent: contextvars.ContextVar[bool] = contextvars.ContextVar("urgent", default=False)


class Turns:
    """One per database. ``one_writer``: transactions that write exclude each other, as SQLite wants."""

    def __init__(self, *, one_writer: bool, patience_s: float = PATIENCE_S) -> None:
        self._writer = _Writer() if one_writer else None
        self._patience_s = patience_s
        self._in_hand = 0
        self._calm = asyncio.Event()
        self._calm.set()

    @property
    def is_urgent(self) -> bool:
        """Whether the work of this task is urgent."""
        return _urgent.get()

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """What is done inside is urgent; tasks that are started inside are so, too."""
        token = _urgent.set(True)
        self._in_hand += 1
        self._calm.clear()
        try:
            yield
        finally:
            _urgent.reset(token)
            self._in_hand -= 1
            if self._in_hand == 0:
                self._calm.set()

    async def give_way(self) -> None:
        """Wait while urgent work is in hand, unless this is urgent itself; to be called where work may pause."""
        if self._in_hand and not self.is_urgent:
            await self._give_way_until(self._now_s() + self._patience_s)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """A turn to write: give way, then hold the writer's lock where there is one."""
        if self._writer is None:
            await self.give_way()
            yield
            return
        await self._take(self._writer)
        try:
            yield
        finally:
            self._writer.release()

    async def _take(self, writer: _Writer) -> None:
        is_urgent, until_s = self.is_urgent, self._now_s() + self._patience_s
        while True:
            if not is_urgent:
                await self._give_way_until(until_s)
            await writer.acquire(is_urgent=is_urgent)
            if is_urgent or not self._in_hand or self._now_s() >= until_s:
                return
            writer.release()  # urgent work came while this waited for the lock

    async def _give_way_until(self, until_s: float) -> None:
        while self._in_hand and self._now_s() < until_s:
            try:
                async with asyncio.timeout_at(until_s):
                    await self._calm.wait()
            except TimeoutError:
                return

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


class _Writer:
    """A lock that is handed to urgent work first, and else in the order of asking."""

    def __init__(self) -> None:
        self._held = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._ordinary: deque[asyncio.Future[None]] = deque()

    async def acquire(self, *, is_urgent: bool) -> None:
        """Hold the lock; answer with `release`."""
        if not self._held:
            self._held = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._urgent if is_urgent else self._ordinary).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it was handed over in the moment of the cancellation
            raise

    def release(self) -> None:
        """Hand the lock to who waits."""
        for waiting in (self._urgent, self._ordinary):
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._held = False
