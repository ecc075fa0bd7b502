"""The store: transactions that hold a state's change, the inbox mark, timers and outgoing messages together.

The rule that it keeps: what a handler changed and what it says to others is one commit, and the message is acknowledged
only after it. So a crash at any instant leaves either nothing or all of it, and a message that comes twice changes
nothing. Publishing is the relay's work, calling back on time the timer runner's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID, uuid4

from sqlalchemy import CursorResult, Executable, MetaData, Table, delete, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.messages import AnyEnvelope, Message, seal
from shared.parties import Party
from shared.store.engine import (
    READ_ONLY,
    StoreFileUnusable,
    StoreUnusable,
    async_url,
    down_raised,
    make_engine,
    make_urgent_engine,
    upsert,
)
from shared.store.sqlite_file import lasting_problem
from shared.store.tables import inbox, outbox, store_metadata, timers
from shared.store.turns import Turns

Clock = Callable[[], datetime]


URGENT_RELAY_AFTER = timedelta(seconds=2)
"""What urgent work says is published by who does the work; only after this does an outbox relay take it up."""


def utc_now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that a transaction has put into the outbox, as row ``row_id``."""

    row_id: int
    to: Party
    envelope: AnyEnvelope


class Transaction:
    """One transaction. Everything done through it becomes true together when the ``async with`` block ends, or not
    at all.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        party: Party,
        now: datetime,
        new_id: Callable[[], UUID],
        relay_after: timedelta = timedelta(0),
    ) -> None:
        self.connection = connection
        self.party = party
        self.now = now
        """The instant of this transaction; use it instead of a clock, so that all its rows agree."""
        self._new_id = new_id
        self._relay_after = relay_after
        self._hooks: list[Callable[[], None]] = []
        self._unstored: list[tuple[Party, AnyEnvelope, datetime]] = []
        self.outgoing: list[Outgoing] = []
        """What was put into the outbox; complete after the commit."""
        self.has_timers = False

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.connection.dialect.name

    async def execute(
        self, statement: Executable, parameters: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Run a SQLAlchemy Core statement."""
        result: CursorResult[Any] = await self.connection.execute(statement, parameters)
        return result

    async def upsert(self, table: Table, values: dict[str, Any], *, key: Sequence[str]) -> None:
        """Insert a row, or update the row with the same ``key`` columns."""
        await self.connection.execute(upsert(self.dialect, table, values, key=key))

    async def first_time(self, envelope: AnyEnvelope) -> bool:
        """Mark the message as handled; False if it already was, then its effect is stored and nothing is to be done."""
        values = {"sender": envelope.source, "message_id": envelope.id, "received_at": self.now}
        statement = upsert(self.dialect, inbox, values, key=("sender", "message_id"), update=False)
        return (await self.connection.execute(statement)).rowcount == 1

    async def send(
        self,
        to: Party,
        message: Message,
        *,
        cause: AnyEnvelope | None = None,
        correlation_id: UUID | None = None,
        deadline: datetime | None = None,
    ) -> AnyEnvelope:
        """Seal a message and put it into the outbox; it is published after the commit. Messages to one party keep
        their order.
        """
        envelope = seal(
            message,
            source=self.party,
            message_id=self._new_id(),
            now=self.now,
            cause=cause,
            correlation_id=correlation_id,
            deadline=deadline,
        )
        await self.put(to, envelope)
        return envelope

    async def put(self, to: Party, envelope: AnyEnvelope, *, not_before: datetime | None = None) -> None:
        """Put a sealed message into the outbox. One that is not due yet holds back what is later put for the same
        party. The row is written at the end of the transaction.
        """
        self._unstored.append((to, envelope, not_before or self.now + self._relay_after))

    async def store_outgoing(self) -> None:
        """For `Store` only: write the outbox's new rows, in their order, in one statement."""
        unstored, self._unstored = self._unstored, []
        if not unstored:
            return
        rows = [
            {
                "message_id": envelope.id,
                "recipient": str(to),
                "type": type(envelope.data).__name__,
                "envelope": envelope.to_json().decode(),
                "created_at": self.now,
                "not_before": not_before,
                "expires_at": envelope.deadline,
                "attempts": 0,
            }
            for to, envelope, not_before in unstored
        ]
        statement = insert(outbox).returning(outbox.c.id, sort_by_parameter_order=True)
        ids = (await self.connection.execute(statement, rows)).scalars()
        self.outgoing += [
            Outgoing(row_id, to, envelope) for row_id, (to, envelope, _) in zip(ids, unstored, strict=True)
        ]

    async def arm(self, key: str, due_at: datetime, payload: Mapping[str, Any] | None = None) -> None:
        """Store a deadline; an earlier one with this key is replaced. ``payload`` is JSON for whoever handles it."""
        values = {"key": key, "due_at": due_at, "payload": json.dumps(dict(payload or {}))}
        await self.upsert(timers, values, key=("key",))
        self.has_timers = True

    async def disarm(self, key: str) -> bool:
        """Remove a deadline; False if there was none."""
        return (await self.connection.execute(delete(timers).where(timers.c.key == key))).rowcount > 0

    async def take_timer(self, key: str) -> dict[str, Any] | None:
        """Remove a deadline before it passes, and return its payload; None if there was none."""
        statement = delete(timers).where(timers.c.key == key).returning(timers.c.payload)
        payload = (await self.connection.execute(statement)).scalar_one_or_none()
        found: dict[str, Any] | None = None if payload is None else json.loads(payload)
        return found

    async def claim_timer(self, key: str, due_at: datetime) -> bool:
        """Take a due deadline for handling: True for exactly one caller, and only if it was not moved meanwhile."""
        statement = delete(timers).where(timers.c.key == key, timers.c.due_at == due_at)
        return (await self.connection.execute(statement)).rowcount == 1

    def after_commit(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` once the commit is durable (metrics, wake-ups); never after a rollback. It must not fail."""
        self._hooks.append(hook)

    def run_hooks(self) -> None:
        """For `Store` only: the commit is durable."""
        for hook in self._hooks:
            hook()


class Store:
    """A service's database. Use as ``async with Store(...) as store``; or ``await store.open()`` and ``await
    store.close()``.
    """

    def __init__(self, url: str, party: Party, *, clock: Clock = utc_now, new_id: Callable[[], UUID] = uuid4) -> None:
        self.shown_url = async_url(url).render_as_string(hide_password=True)
        self.party = party
        self.clock = clock
        self._new_id = new_id
        self.engine = make_engine(url)
        self._urgent_engine = make_urgent_engine(url)
        # SQLite has one writer; queueing here is fair and quiet, its own busy handler polls.
        self.turns = Turns(one_writer=self.engine.dialect.name == "sqlite")
        self.outgoing = asyncio.Event()
        """Set after each commit with outgoing messages; the relay clears it."""
        self._outgoing_to: set[str] = set()
        self.urgent_outgoing: list[Outgoing] = []
        """What urgent work has committed to say; who does the work has it published at once."""
        self.timers_changed = asyncio.Event()
        """Set after each commit that armed a timer; the timer runner clears it."""

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect once, so that a wrong path, host or password is known at start; raises `StoreUnusable`."""
        await self.check()

    async def close(self) -> None:
        """Close all connections; idempotent."""
        await self.engine.dispose()
        await self._urgent_engine.dispose()

    async def check(self) -> None:
        """Raise `StoreUnusable` unless the database answers; for readiness."""
        try:
            async with self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError) as error:
            lasting = lasting_problem(getattr(error, "orig", None), self.engine.url.database or "")
            if lasting is not None:
                raise StoreFileUnusable(self.shown_url, lasting) from error
            raise StoreUnusable(self.shown_url, f"{type(error).__name__}: {error}") from error

    async def create_schema(self, *metadata: MetaData) -> None:
        """Create the tables that are missing: the store's own and those given. The broker uses migrations instead."""
        async with self.transaction() as tx:
            for each in (store_metadata, *metadata):
                await tx.connection.run_sync(each.create_all)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that may write: commits at the end of the block, rolls back if it raises.

        Keep it short: on SQLite there is one at a time. Raises `StoreDown` while the database cannot be used; if that
        happens at the commit, it may be durable all the same. Raises `UnstorableValue` for what can never be stored.
        """
        with down_raised(self.shown_url):
            async with self.turns.writing(), self._engine_at_hand().begin() as connection:
                tx = self._new_transaction(connection)
                yield tx
                await tx.store_outgoing()
        # Only reached after a commit: an exception leaves through the yield.
        tx.run_hooks()
        if self.turns.is_urgent:
            self.urgent_outgoing += tx.outgoing
        elif tx.outgoing:
            self._outgoing_to |= {str(each.to) for each in tx.outgoing}
            self.outgoing.set()
        if tx.has_timers:
            self.timers_changed.set()

    def _new_transaction(self, connection: AsyncConnection) -> Transaction:
        return Transaction(
            connection,
            party=self.party,
            now=self.clock(),
            new_id=self._new_id,
            relay_after=URGENT_RELAY_AFTER if self.turns.is_urgent else timedelta(0),
        )

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection with one consistent view, for reading only; never waits for writers, but for urgent work. Raises
        `StoreDown` as `transaction` does.
        """
        await self.turns.give_way()
        async with AsyncExitStack() as stack:
            stack.enter_context(down_raised(self.shown_url))
            connection = await stack.enter_async_context(self._engine_at_hand().connect())
            await connection.execution_options(**{READ_ONLY: True})
            await stack.enter_async_context(connection.begin())
            yield connection

    def _engine_at_hand(self) -> AsyncEngine:
        return self._urgent_engine if self.turns.is_urgent else self.engine

    def take_outgoing(self) -> set[str]:
        """For the relay: to whom messages were committed since the last call."""
        taken, self._outgoing_to = self._outgoing_to, set()
        return taken

    async def outbox_depth(self) -> int:
        """How many messages wait to be published; for metrics."""
        async with self.reading() as connection:
            statement = select(func.count()).select_from(outbox).where(outbox.c.sent_at.is_(None))
            return int(await connection.scalar(statement) or 0)
