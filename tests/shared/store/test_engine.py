"""What differs between the two databases is hidden in one module."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # it has no types
import pytest
from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.parties import BROKER
from shared.store import Store, StoreDown, StoreUnusable, UtcDateTime, async_url, upsert
from shared.store.engine import is_down

own = MetaData()
things = Table(
    "things", own, Column("name", String(10), primary_key=True), Column("at", UtcDateTime), Column("n", String)
)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:////var/lib/x.db", "sqlite+aiosqlite"),
        ("postgresql://me@host/db", "postgresql+asyncpg"),
        ("postgres://me@host/db", "postgresql+asyncpg"),
        ("postgresql+asyncpg://me@host/db", "postgresql+asyncpg"),
    ],
)
def test_the_driver_is_chosen_here(url: str, driver: str) -> None:
    """An operator writes the plain URL."""
    assert async_url(url).drivername == driver


def test_a_refused_url_hides_its_password() -> None:
    """The reason is for a log."""
    with pytest.raises(StoreUnusable) as caught:
        async_url("mysql://me:secret@host/db")
    assert caught.value.code == "store_unusable"
    assert "secret" not in str(caught.value)


async def test_upsert_updates_or_leaves_alone(store_url: str) -> None:
    """The same on both engines."""
    at = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    async with Store(store_url, BROKER) as store:
        await store.create_schema(own)
        async with store.transaction() as tx:
            for n, update in (("1", True), ("2", True), ("3", False)):
                values = {"name": "a", "at": at, "n": n}
                await tx.execute(upsert(tx.dialect, things, values, key=("name",), update=update))
            row = (await tx.execute(select(things))).one()
    assert (row.n, row.at) == ("2", datetime(2026, 1, 1, tzinfo=UTC))


def test_a_time_without_a_zone_is_refused() -> None:
    """It would mean another instant on another machine."""
    column, dialect = UtcDateTime(), sqlite.dialect()
    assert column.process_bind_param(None, dialect) is None
    assert column.process_result_value(None, dialect) is None
    with pytest.raises(ValueError, match="no time zone"):
        column.process_bind_param(datetime(2026, 1, 1), dialect)  # noqa: DTZ001  # the mistake


@pytest.mark.parametrize(
    ("error", "down"),
    [
        (OperationalError("x", {}, sqlite3.OperationalError("database is locked")), True),
        (OperationalError("x", {}, sqlite3.OperationalError("database or disk is full")), True),
        (DBAPIError("x", {}, Exception("terminating connection due to administrator command")), True),
        (asyncpg.CannotConnectNowError("the database system is starting up"), True),
        (asyncpg.InterfaceError("connection is closed"), True),
        (PoolTimeoutError("all connections are in use"), True),
        (IntegrityError("x", {}, Exception("taken")), False),
        (ProgrammingError("x", {}, Exception("no such table")), False),
        (ValueError("a bug"), False),
        (FileNotFoundError("of a handler"), False),
    ],
)
def test_what_counts_as_down(error: Exception, down: bool) -> None:  # noqa: FBT001  # pytest passes it
    """What another try may cure, and nothing else."""
    assert is_down(error) is down


async def test_an_error_of_the_operating_system_under_the_driver(tmp_path: Path) -> None:
    """SQLAlchemy does not wrap what the driver gets from the socket; it is a database that is away all the same."""
    async with Store(f"sqlite:///{tmp_path}/s.db", BROKER) as own_trouble:
        with pytest.raises(FileNotFoundError):
            async with own_trouble.reading():
                (tmp_path / "nothing").read_text()
    away = Store(f"postgresql://me:secret@/db?host={tmp_path}", BROKER)
    with pytest.raises(StoreDown) as caught:
        async with away.transaction():
            pass
    with pytest.raises(StoreDown):
        async with away.reading():
            pass
    assert isinstance(caught.value.__cause__, OSError)
    assert "secret" not in str(caught.value)
    await away.close()
