"""Alembic's environment: runs inside the connection and transaction that ``services.broker.migrate`` gives it."""

from __future__ import annotations

from alembic import context

from services.broker.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run migrations with: vmport-broker --config FILE --migrate")

context.configure(connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()
