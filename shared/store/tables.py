"""The tables that every service with durable state has: inbox, outbox, timers. Pure schema.

A service creates them with its own (`Store.create_schema`), or through its migrations, as the broker does.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text, Uuid

from shared.store.engine import UtcDateTime

store_metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

inbox = Table(
    "inbox",
    store_metadata,
    Column("sender", String(200), primary_key=True),  # part of the key: nobody can use up another party's message ids
    Column("message_id", Uuid, primary_key=True),
    Column("received_at", UtcDateTime, nullable=False, index=True),
)
"""Messages whose effect is stored. A message that is here already is a duplicate."""

outbox = Table(
    "outbox",
    store_metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("message_id", Uuid, nullable=False),
    Column("recipient", String(200), nullable=False),
    Column("type", String(200), nullable=False),
    Column("envelope", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("not_before", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("attempts", Integer, nullable=False, default=0),
    Column("last_error", Text),
    Column("sent_at", UtcDateTime),
    Index(
        "ix_outbox_pending",
        "recipient",
        "id",
        sqlite_where=Column("sent_at").is_(None),
        postgresql_where=Column("sent_at").is_(None),
    ),
    Index("ix_outbox_sent_at", "sent_at"),
    sqlite_autoincrement=True,  # a pruned id is never given again, so order by id stays order of commit
)
"""Messages to publish, in order of ``id`` per recipient."""

timers = Table(
    "timers",
    store_metadata,
    Column("key", String(200), primary_key=True),
    Column("due_at", UtcDateTime, nullable=False, index=True),
    Column("payload", Text, nullable=False),
)
"""Deadlines that survive a restart; one per key."""
