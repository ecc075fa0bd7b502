"""Opens SQLite or PostgreSQL so that both keep the same promises: durable commits, foreign keys, UTC times.

Owns what differs between the two engines; no other module asks which one it has, except for locks.
"""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, DateTime, Dialect, Executable, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator

from shared.errors import VmportError
from shared.store.sqlite_connection import BEGIN_READ, BEGIN_WRITE, LoopConnection

BUSY_TIMEOUT_S = 10.0
"""How long a SQLite connection waits for another process that writes, for example a migration by hand."""

CONNECT_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0
"""A PostgreSQL server that vanished without a word must not be waited for until TCP gives up, which takes minutes."""

_LIMITS = {"timeout": CONNECT_TIMEOUT_S, "command_timeout": COMMAND_TIMEOUT_S}

READ_ONLY = "vmport_read_only"
"""Execution option of a connection that will not write: SQLite then takes no write lock."""

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class StoreUnusable(VmportError):
    """The database of this service cannot be used."""

    code = "store_unusable"

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"store {url}: {reason}")


class StoreFileUnusable(StoreUnusable):
    """SQLite's file is no database, is damaged, or cannot be opened or written: a person must act."""

    code = "store_file_unusable"


class UnstorableValue(VmportError, ValueError):
    """The database refuses a value: too long, too large, or of characters that it does not store. Trying again is of
    no use.
    """

    code = "unstorable_value"


def refuses_value(error: Exception) -> bool:
    """Whether this is PostgreSQL's "data exception", which is about a value and not about the database."""
    return isinstance(error, DBAPIError) and str(getattr(error.orig, "sqlstate", None) or "").startswith("22")


class StoreDown(StoreUnusable):
    """The database is away, locked or full at this moment: nothing is wrong with what was asked, so ask again."""

    code = "store_down"


_OWN_FAULT = (IntegrityError, ProgrammingError, DataError, NotSupportedError)
"""What a statement does wrong itself; another try would fail in the same way."""


def is_down(error: Exception) -> bool:
    """Whether an error says that the database cannot be used now: away, restarting, a stand-by, locked, full.

    Drivers also raise what SQLAlchemy does not wrap: errors of their own, and of the operating system. The latter count
    only where SQLAlchemy called the driver, so that a handler's own trouble with a file is not taken for it.
    """
    if isinstance(error, DBAPIError):
        return not isinstance(error, _OWN_FAULT)
    if isinstance(error, PoolTimeoutError) or any(
        base.__module__.startswith("asyncpg.") for base in type(error).__mro__
    ):
        return True
    if not isinstance(error, OSError):
        return False
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith("sqlalchemy.") for frame, _ in frames)


@contextmanager
def down_raised(shown_url: str) -> Iterator[None]:
    """Raise `StoreDown` for whatever the driver raises inside when the database cannot be used now, and
    `UnstorableValue` for a value that it never takes.
    """
    try:
        yield
    except Exception as error:
        if refuses_value(error):
            raise UnstorableValue(f"the database refuses a value: {error}") from error
        if is_down(error):
            raise StoreDown(shown_url, f"{type(error).__name__}: {error}") from error
        raise


def async_url(url: str) -> URL:
    """The URL with its async driver; ``sqlite:///relative``, ``sqlite:////absolute`` and ``postgresql://…`` will do.

    Raises `StoreUnusable` for any other database, and for SQLite in memory, which would forget.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreUnusable(
            "(unreadable)", "not a database URL; use sqlite:////path/file.db or postgresql://…"
        ) from error
    shown = parsed.render_as_string(hide_password=True)
    driver = _DRIVERS.get(parsed.drivername, parsed.drivername)
    if driver not in _DRIVERS.values():
        raise StoreUnusable(shown, "only sqlite and postgresql are supported")
    if driver.startswith("sqlite") and parsed.database in {None, "", ":memory:"}:
        raise StoreUnusable(shown, "SQLite needs a file, because state must outlive the process")
    return parsed.set(drivername=driver)


def make_engine(url: str) -> AsyncEngine:
    """An engine whose transactions behave alike on both databases. Connects to nothing yet."""
    target = async_url(url)
    if target.get_backend_name() == "sqlite":
        return _sqlite_engine(target, pool_size=10)
    return create_async_engine(
        target,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=30,
        pool_use_lifo=True,
        connect_args=_LIMITS,
    )


def make_urgent_engine(url: str) -> AsyncEngine:
    """An engine with connections of its own for work that must not wait for one, nor for a test of one.

    A connection that the server has closed is found by the first statement on it, which fails; the work is then tried
    again, as after any loss of the database.
    """
    target = async_url(url)
    if target.get_backend_name() == "sqlite":
        return _sqlite_engine(target, pool_size=2)
    return create_async_engine(
        target, pool_size=2, max_overflow=10, pool_timeout=30, pool_use_lifo=True, connect_args=_LIMITS
    )


def _sqlite_engine(target: URL, *, pool_size: int) -> AsyncEngine:
    # More connections than the pool keeps are opened and closed each time, each with a thread of its own.
    how = {"async_creator_fn": LoopConnection, "timeout": BUSY_TIMEOUT_S}
    engine = create_async_engine(target, connect_args=how, pool_size=pool_size, max_overflow=10, pool_use_lifo=True)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    try:
        _set_pragmas(dbapi_connection)
    except sqlite3.Error:
        # Nobody else closes it: its thread would outlive the event loop.
        dbapi_connection.close()
        raise


def _set_pragmas(dbapi_connection: Any) -> None:
    cursor = dbapi_connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql(BEGIN_READ if read_only else BEGIN_WRITE)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, always in UTC; SQLite keeps no zone, so it is added when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def upsert(
    dialect: str, table: Table, values: dict[str, Any], *, key: Sequence[str], update: bool = True
) -> Executable:
    """INSERT that, on a conflict in ``key``, updates the other columns, or does nothing with ``update=False``."""
    module = sqlite if dialect == "sqlite" else postgresql
    statement: Any = module.insert(table).values(**values)
    if not update:
        ignoring: Executable = statement.on_conflict_do_nothing(index_elements=list(key))
        return ignoring
    others = {name: statement.excluded[name] for name in values if name not in key}
    updating: Executable = statement.on_conflict_do_update(index_elements=list(key), set_=others)
    return updating
