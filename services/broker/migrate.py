"""Brings the ledger's schema to this release's; run at every start, harmless when there is nothing to do.

Two brokers that start at once on one PostgreSQL take turns; on SQLite the transaction's write lock does the same.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from shared.store import Store, StoreUnusable


class SchemaUnknown(StoreUnusable):
    """The ledger's schema is not one that this release knows; another try would find the same."""

    code = "schema_unknown"


_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('vmport.broker.migrations', 0))"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def head_revision() -> str:
    """The revision that this release needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


async def migrate(store: Store) -> str:
    """Upgrade to the newest revision and return its name; raises `SchemaUnknown` for a schema that a later release
    made.
    """

    def upgrade(connection: Connection) -> str:
        if connection.dialect.name == "postgresql":
            connection.execute(text(_LOCK))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return MigrationContext.configure(connection).get_current_revision() or ""

    try:
        async with store.transaction() as tx:
            return await tx.connection.run_sync(upgrade)
    except CommandError as error:
        reason = f"its schema does not fit this release ({error}); was it made by a later one?"
        raise SchemaUnknown(store.shown_url, reason) from error


async def check_schema(store: Store) -> None:
    """Raise `SchemaUnknown` unless the ledger has this release's schema; changes nothing."""

    def revision(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    async with store.reading() as connection:
        found = await connection.run_sync(revision)
    if found != head_revision():
        raise SchemaUnknown(store.shown_url, f"its schema is at revision {found}, this release needs {head_revision()}")
