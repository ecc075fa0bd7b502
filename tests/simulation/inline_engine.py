"""An engine with the face of SQLAlchemy's async one, whose statements run at once: nothing here waits for a disk.

The product's own engine hands each call from greenlet to greenlet and to a thread; in one thread on virtual time that
is most of a transaction's cost, and changes nothing. The same SQL, transactions and files remain, and a commit is a
step of its process, as it is where a thread waits for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from sqlalchemy import Connection, NullPool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from shared.store.engine import READ_ONLY, async_url
from shared.store.sqlite_connection import BEGIN_READ, BEGIN_WRITE
from tests.simulation.process import CURRENT

_PRAGMAS = ("journal_mode=WAL", "synchronous=OFF", "foreign_keys=ON")
_DRIVER = {"timeout": 0.0, "isolation_level": None, "check_same_thread": False}


class InlineEngine:
    """What `Store` uses of an `AsyncEngine`, for one SQLite file."""

    def __init__(self, url: str) -> None:
        self.url: URL = async_url(url)
        self._engine = create_engine(self.url.set(drivername="sqlite"), connect_args=_DRIVER, poolclass=NullPool)
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        self.dialect = self._engine.dialect
        self._idle: list[Connection] = []
        """Open, and without a transaction; the last one that was used is used next."""

    def connect(self) -> _Connecting:
        """A connection, as an asynchronous context."""
        return _Connecting(self)

    def begin(self) -> _Writing:
        """A transaction that writes, as an asynchronous context."""
        return _Writing(self)

    def take(self) -> Connection:
        """An open connection without a transaction."""
        return self._idle.pop() if self._idle else self._engine.connect()

    def give_back(self, connection: Connection) -> None:
        """Roll back what is open. A connection whose process is dead is closed already."""
        try:
            if (transaction := connection.get_transaction()) is not None:
                transaction.rollback()
        except (SQLAlchemyError, sqlite3.ProgrammingError):
            _close(connection)
        else:
            self._idle.append(connection)

    async def dispose(self) -> None:
        """Close all connections."""
        self.forget_connections()

    def forget_connections(self) -> None:
        """Close those that nobody uses: the process that had them is gone."""
        idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    driver.execute(BEGIN_READ if connection.get_execution_options().get(READ_ONLY, False) else BEGIN_WRITE)


def _close(connection: Connection) -> None:
    with suppress(SQLAlchemyError, sqlite3.ProgrammingError):
        connection.close()


class InlineConnection:
    """What the product uses of an `AsyncConnection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Run a statement."""
        return self._connection.execute(statement, parameters)

    async def scalar(self, statement: Any, parameters: Any = None) -> Any:
        """The first column of the first row."""
        return self._connection.scalar(statement, parameters)

    async def scalars(self, statement: Any, parameters: Any = None) -> Any:
        """The first column of each row."""
        return self._connection.scalars(statement, parameters)

    async def run_sync(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Give the connection itself to something that is not asynchronous."""
        return work(self._connection, *args, **kwargs)

    async def execution_options(self, **options: Any) -> Self:
        """Set options until the connection is given back."""
        self._connection.execution_options(**options)
        return self

    def begin(self) -> _Beginning:
        """A transaction, as an asynchronous context."""
        return _Beginning(self._connection)


class _Connecting:
    def __init__(self, engine: InlineEngine) -> None:
        self._engine = engine

    async def __aenter__(self) -> InlineConnection:
        self._connection = self._engine.take()
        self._connection.execution_options(**{READ_ONLY: False})
        return InlineConnection(self._connection)

    async def __aexit__(self, *_error: object) -> None:
        self._engine.give_back(self._connection)


class _Beginning:
    """Of a transaction that reads: how it ends changes nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> Self:
        self._transaction = self._connection.begin()
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._transaction.rollback()


class _Writing:
    def __init__(self, engine: InlineEngine) -> None:
        self._engine = engine

    async def __aenter__(self) -> InlineConnection:
        self._connection = self._engine.take()
        self._connection.execution_options(**{READ_ONLY: False})
        try:
            self._transaction = self._connection.begin()
        except BaseException:
            self._engine.give_back(self._connection)
            raise
        return InlineConnection(self._connection)

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._engine.give_back(self._connection)

    def _commit(self) -> None:
        process = CURRENT.get()
        if process is not None:
            process.touch("commit")
        self._transaction.commit()
        if process is not None:
            process.touch("committed")
