"""The migrations of the ledger, on both database engines."""

from __future__ import annotations

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from services.broker.migrate import SchemaUnknown, check_schema, head_revision, migrate
from services.broker.tables import metadata
from shared.parties import BROKER
from shared.store import Store, StoreUnusable


class TestMigrations:
    """The schema."""

    async def test_makes_what_the_program_expects(self, store: Store) -> None:
        """After the migrations the database differs in nothing from the tables of the program."""

        def differences(connection: Connection) -> list[object]:
            return list(compare_metadata(MigrationContext.configure(connection), metadata))

        async with store.transaction() as tx:
            assert await tx.connection.run_sync(differences) == []

    async def test_twice_is_harmless(self, store: Store) -> None:
        """At every start the migrations run; there is nothing to do the second time."""
        assert await migrate(store) == head_revision()

    async def test_two_brokers_start_at_once(self, store_url: str) -> None:
        """Two processes that migrate the same empty database take turns."""
        async with Store(store_url, BROKER) as first, Store(store_url, BROKER) as second:
            assert set(await asyncio.gather(migrate(first), migrate(second))) == {head_revision()}

    async def test_schema_is_checked_without_a_change(self, store_url: str, store: Store) -> None:
        """For a command that works beside brokers: it needs this release's schema, and makes none."""
        await check_schema(store)
        async with store.transaction() as tx:
            await tx.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        with pytest.raises(SchemaUnknown, match="revision 0001"):
            await check_schema(store)
        assert store_url

    async def test_later_schema_is_refused(self, store: Store) -> None:
        """A database that a later release made is not touched."""
        async with store.transaction() as tx:
            await tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(StoreUnusable, match="later"):
            await migrate(store)
