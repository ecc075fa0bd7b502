"""Which call of SQLite runs where, and what happens while another process holds the lock."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from shared.parties import BROKER
from shared.store import Store, StoreDown
from shared.store.sqlite_connection import BEGIN_READ, BEGIN_WRITE, LoopConnection
from shared.tasks import Tasks


class _Seen(sqlite3.Connection):
    """Notes the thread of each call."""

    threads: dict[str, list[int]]

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        self.threads.setdefault("execute", []).append(threading.get_ident())
        return super().execute(*args, **kwargs)

    def commit(self) -> None:
        self.threads.setdefault("commit", []).append(threading.get_ident())
        super().commit()


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[LoopConnection]:
    """A connection to a file with one table."""
    _Seen.threads = {}
    opened = LoopConnection(f"{tmp_path}/s.db", timeout=0.3, factory=_Seen)
    async with opened:
        await opened.execute("PRAGMA journal_mode=WAL")
        await opened.execute("CREATE TABLE t (n INTEGER)")
        yield opened


async def _commit(connection: LoopConnection, begin: str, statement: str) -> int:
    await connection.execute(begin)
    await connection.execute(statement)
    await connection.commit()
    return _Seen.threads["commit"][-1]


async def test_only_the_commit_of_a_writer_leaves_the_thread_of_the_loop(connection: LoopConnection) -> None:
    """It waits for the disk; nothing else does."""
    here = threading.get_ident()
    assert await _commit(connection, BEGIN_WRITE, "INSERT INTO t VALUES (1)") != here
    assert await _commit(connection, BEGIN_READ, "SELECT * FROM t") == here
    assert set(_Seen.threads["execute"]) == {here}
    assert [tuple(row) for row in await connection.execute_fetchall("SELECT n FROM t")] == [(1,)]


async def test_a_lock_of_another_process_is_waited_for_by_the_loop(connection: LoopConnection, tmp_path: Path) -> None:
    """The loop goes on meanwhile; after the time-out the error comes out as it is."""
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute(BEGIN_WRITE)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async with Tasks("ticks") as tasks:
        tasks.spawn(tick(), name="ticks")
        began_s = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await connection.execute(BEGIN_WRITE)
        assert time.monotonic() - began_s >= 0.3
        assert ticks >= 5
        asyncio.get_running_loop().call_later(0.05, lambda: other.execute("ROLLBACK"))
        await connection.execute(BEGIN_WRITE)
        await connection.rollback()
    other.close()


async def test_another_error_comes_out_at_once(connection: LoopConnection) -> None:
    """Trying again would not help."""
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await connection.execute("SELECT * FROM no_table")


class _Slow(_Seen):
    """A disk that takes its time, until it is let go."""

    go = threading.Event()

    def commit(self) -> None:
        self.go.wait(10)
        super().commit()


async def test_what_follows_a_cancelled_commit_waits_for_its_end(tmp_path: Path) -> None:
    """The thread is still at it; two threads must not use the connection at once."""
    _Seen.threads = {}
    _Slow.go.clear()
    async with LoopConnection(f"{tmp_path}/s.db", timeout=1.0, factory=_Slow) as connection, Tasks("work") as tasks:
        await connection.execute("CREATE TABLE t (n INTEGER)")
        await connection.execute(BEGIN_WRITE)
        await connection.execute("INSERT INTO t VALUES (1)")
        commit = tasks.spawn(connection.commit(), name="commit")
        await asyncio.sleep(0.02)
        commit.cancel()
        rollback = tasks.spawn(connection.rollback(), name="rollback")
        await asyncio.sleep(0.02)
        assert not rollback.done()
        _Slow.go.set()
        await rollback
        assert [tuple(row) for row in await connection.execute_fetchall("SELECT n FROM t")] == [(1,)]


async def test_a_closed_connection_says_so(tmp_path: Path) -> None:
    """SQLAlchemy knows the error, and opens another connection."""
    connection = await LoopConnection(f"{tmp_path}/s.db", timeout=0.1)
    await connection.close()
    calls: list[Callable[[], Any]] = [lambda: connection.execute("SELECT 1"), connection.commit, connection.rollback]
    for call in calls:
        with pytest.raises(ValueError, match=r"no active connection|closed"):
            await call()


async def test_the_store_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that meets a lock waits for it, and then says that the store is down."""
    monkeypatch.setattr("shared.store.engine.BUSY_TIMEOUT_S", 0.1)
    async with Store(f"sqlite:///{tmp_path}/s.db", BROKER) as store:
        async with store.transaction() as tx:
            await tx.execute(text("CREATE TABLE t (n INTEGER)"))
        other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        other.execute(BEGIN_WRITE)
        with pytest.raises(StoreDown, match="locked"):
            async with store.transaction() as tx:
                await tx.execute(text("INSERT INTO t VALUES (1)"))
        async with store.reading() as reading:
            driver = (await reading.get_raw_connection()).driver_connection
            assert isinstance(driver, LoopConnection)
        other.close()
