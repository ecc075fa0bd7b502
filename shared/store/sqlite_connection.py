"""A connection to SQLite whose statements run in the event loop's thread. Owns which call runs where; knows no table.

aiosqlite hands every call to a thread of the connection, four for one SELECT. A statement takes some ten microseconds,
each hand-over some hundred and, while the loop computes, up to five milliseconds. So only what waits for the disk runs
in the thread: opening, closing, and the commit of a transaction that may have written. What another process' lock holds
up is tried again by the loop, so that SQLite itself never waits in it.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable
from typing import Any

import aiosqlite

BEGIN_READ, BEGIN_WRITE = "BEGIN", "BEGIN IMMEDIATE"
"""How every transaction begins. A deferred one that reads and then writes can fail at once with "database is locked";
an immediate one waits.
"""

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05
"""Between two attempts while another process holds the lock."""


class LoopConnection(aiosqlite.Connection):
    """An `aiosqlite.Connection` that leaves to its thread only what may wait for the disk.

    ``options`` are those of `sqlite3.connect`; ``timeout`` is how many seconds to wait for another process' lock.
    """

    def __init__(self, file: str, *, timeout: float, **options: Any) -> None:
        super().__init__(functools.partial(_connect, file, options), iter_chunk_size=64)
        self._busy_timeout_s = timeout
        self._may_write = True
        self._with_thread: list[object] = []
        """One entry for each call that the thread has in hand, also when nobody waits for it any more."""

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a call of the driver, and again while another process has the lock."""
        until_s = asyncio.get_running_loop().time() + self._busy_timeout_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                if self._runs_in_loop(fn, args):
                    return fn(*args, **kwargs)
                return await self._execute_in_thread(fn, *args, **kwargs)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or asyncio.get_running_loop().time() >= until_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _runs_in_loop(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        if self._with_thread or not self._running or self._connection is None:
            return False  # behind what the thread does, or to the error of a closed connection
        if args and args[0] in {BEGIN_READ, BEGIN_WRITE}:
            self._may_write = args[0] == BEGIN_WRITE
        if not isinstance(getattr(fn, "__self__", None), sqlite3.Connection):
            return True  # a cursor's
        return not (fn.__name__ == "close" or (fn.__name__ == "commit" and self._may_write))

    async def _execute_in_thread(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._running or self._connection is None:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]  # says: closed

        @functools.wraps(fn)
        def call() -> Any:
            try:
                return fn(*args, **kwargs)
            finally:
                self._with_thread.pop()

        self._with_thread.append(call)
        return await super()._execute(call)  # type: ignore[no-untyped-call]  # it has no types


def _connect(file: str, options: dict[str, Any]) -> sqlite3.Connection:
    # The module itself begins no transaction: its implicit BEGIN would come late and deferred.
    ours = {"timeout": 0.0, "isolation_level": None, "check_same_thread": False}
    connection: sqlite3.Connection = sqlite3.connect(file, **(options | ours))
    return connection


def _is_busy(error: sqlite3.OperationalError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY and code != sqlite3.SQLITE_BUSY_SNAPSHOT
