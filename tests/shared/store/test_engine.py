"""What differs between the two databases is hidden in one module."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy.dialects import sqlite

from shared.parties import BROKER
from shared.store import Store, StoreUnusable, UtcDateTime, async_url, upsert

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
