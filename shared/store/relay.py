"""The outbox relay: publishes committed messages in order per recipient, and marks them sent. Knows no message's
meaning.

A message is marked after the bus confirmed it, so a crash between the two publishes it again: delivery is at least
once, and receivers recognise the duplicate by its id. So no mark waits for the disk: on SQLite many are written in one
transaction, on PostgreSQL it may be lost with the server. A recipient that cannot be reached holds up only itself.
Order is by row id: within a transaction the order of ``send``; between transactions the order of commit for all that
one row lock (or SQLite's one writer) serialises, such as one port.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.bus import Bus, BusDown, Undeliverable
from shared.logs import get_logger
from shared.messages import MessageError, open_envelope
from shared.parties import Party
from shared.store.engine import StoreDown
from shared.store.pruning import prune
from shared.store.settings import StoreSettings
from shared.store.store import URGENT_RELAY_AFTER, Outgoing, Store, Transaction
from shared.store.tables import outbox

log = get_logger(__name__)

_SOLE_SENDER = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
"""Keeps other processes on the same PostgreSQL from publishing to one recipient until the transaction ends."""

_NEED_NOT_LAST = text("SET LOCAL synchronous_commit TO off")
"""The commit of this transaction does not wait for PostgreSQL's disk."""


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """How the relay waits, retries and forgets."""

    poll_s: float = 5.0
    first_retry_s: float = 0.5
    longest_retry_s: float = 60.0
    bus_down_retry_s: float = 0.5
    give_up_after: timedelta = timedelta(days=7)
    keep_sent: timedelta = timedelta(hours=24)
    keep_inbox: timedelta = timedelta(days=14)
    prune_every: timedelta = timedelta(minutes=10)
    batch: int = 50
    mark_after_s: float = 0.25
    """What was published is marked so much later, together with what follows it meanwhile."""
    parallel: int = 6
    """Recipients served at once; below the connection pool's size, because on PostgreSQL each holds a connection."""

    @classmethod
    def from_settings(cls, settings: StoreSettings) -> RelayPolicy:
        """The policy that the ``[store]`` section asks for."""
        return cls(
            give_up_after=timedelta(days=settings.give_up_days),
            keep_sent=timedelta(hours=settings.keep_sent_hours),
            keep_inbox=timedelta(days=settings.keep_inbox_days),
        )

    def retry_delay(self, attempts: int) -> timedelta:
        """How long after the given number of failed attempts the next one comes."""
        seconds = min(self.longest_retry_s, self.first_retry_s * 2 ** min(attempts - 1, 20))
        return timedelta(seconds=seconds * random.uniform(0.8, 1.2))  # noqa: S311  # jitter, no secret


@dataclass(frozen=True, slots=True)
class _Pending:
    """A row of the outbox, as the relay needs it."""

    id: int
    message_id: UUID
    type: str
    envelope: str
    created_at: datetime
    not_before: datetime
    expires_at: datetime | None
    attempts: int


class OutboxRelay:
    """One task per store: ``await relay.run()`` until cancelled."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        policy: RelayPolicy | None = None,
        on_depth: Callable[[int], None] | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._policy = policy or RelayPolicy()
        self._on_depth = on_depth
        self._turns = asyncio.Semaphore(self._policy.parallel)
        self._draining: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        """Recipients for whom something was committed while they were being served."""
        self._unmarked: set[int] = set()
        """Rows that are published, or just being so without a turn (`send_now`), and not marked yet."""
        self._published: list[int] = []
        """Those of them that the bus has confirmed."""
        self._to_mark = asyncio.Event()
        self._scan_at_s = 0.0
        """When the table is to be searched next, by the loop's clock; what this process commits is known without."""
        self._down_until_s = 0.0
        self._pruned_at: datetime | None = None

    async def run(self) -> None:
        """Publish what is committed, as soon as it is; what failed, when its retry is due."""
        try:
            await self._run()
        finally:
            await self._mark_if_possible()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._scan_at_s = loop.time()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._mark_again_and_again(), name="outbox marks")
            while True:
                self._store.outgoing.clear()
                committed = self._store.take_outgoing()
                if loop.time() >= self._scan_at_s:
                    await self._scan(group)
                elif loop.time() >= self._down_until_s:
                    for recipient in committed:
                        self._start_drain(group, recipient)
                try:
                    async with asyncio.timeout_at(self._scan_at_s):
                        await self._store.outgoing.wait()
                except TimeoutError:
                    continue

    async def flush(self) -> None:
        """Publish what is due now and return; for an orderly stop and for tests."""
        await self._mark_published()
        for recipient, _ in await self._waiting():
            await self._drain(recipient)
        await self._mark_published()

    async def send_now(self, outgoing: Sequence[Outgoing]) -> None:
        """Publish what urgent work has just committed, without waiting for a turn; it is marked as sent a little later.

        What cannot be published now is left to `run`. A crash before the mark publishes it again, as always.
        """
        self._unmarked |= {each.row_id for each in outgoing}
        await asyncio.gather(*map(self._send_directly, outgoing))

    async def _send_directly(self, message: Outgoing) -> None:
        try:
            await self._bus.publish(message.to, message.envelope)
        except (BusDown, Undeliverable) as error:
            log.warning("urgent message left to the outbox", to=str(message.to), error=str(error))
            self._unmarked.discard(message.row_id)
            self._wake_in(URGENT_RELAY_AFTER.total_seconds())
        else:
            self._mark_later([message.row_id])

    async def _mark_again_and_again(self) -> None:
        """Mark what was published, many in one transaction: nobody waits for it."""
        while True:
            await self._to_mark.wait()
            await asyncio.sleep(self._policy.mark_after_s)
            await self._mark_if_possible()

    async def _mark_if_possible(self) -> None:
        try:
            await self._mark_published()
        except (StoreDown, SQLAlchemyError):
            log.exception("outbox unusable; messages may be published twice")

    def _mark_later(self, ids: Sequence[int]) -> None:
        if ids:
            self._unmarked |= set(ids)
            self._published += ids
            self._to_mark.set()

    async def _mark_published(self) -> None:
        self._to_mark.clear()
        published, self._published = self._published, []
        if not published:
            return
        try:
            async with self._store.transaction() as tx:
                await _mark(tx, published)
        finally:
            self._unmarked -= set(published)

    def _start_drain(self, group: asyncio.TaskGroup, recipient: str) -> None:
        if recipient in self._draining:
            self._again.add(recipient)
            return
        self._draining[recipient] = group.create_task(
            self._drain_guarded(group, recipient), name=f"outbox to {recipient}"
        )

    async def _scan(self, group: asyncio.TaskGroup) -> None:
        """Search the table: for retries that are due, for what another process committed, for what a crash left."""
        self._scan_again_in(self._policy.poll_s, at_latest=False)
        try:
            waiting = await self._waiting()
        except (StoreDown, SQLAlchemyError):
            log.exception("outbox unreadable; trying again")
            return
        now = self._store.clock()
        for recipient, not_before in waiting:
            if not_before > now:
                self._scan_again_in((not_before - now).total_seconds())
            else:
                self._start_drain(group, recipient)
        await self._housekeeping()

    def _scan_again_in(self, seconds: float, *, at_latest: bool = True) -> None:
        at_s = asyncio.get_running_loop().time() + seconds
        self._scan_at_s = min(self._scan_at_s, at_s) if at_latest else at_s

    async def _waiting(self) -> list[tuple[str, datetime]]:
        """Each recipient that has unsent messages, with the time when its first one is due."""
        first = select(func.min(outbox.c.id)).where(outbox.c.sent_at.is_(None)).group_by(outbox.c.recipient)
        async with self._store.reading() as connection:
            rows = await connection.execute(
                select(outbox.c.recipient, outbox.c.not_before).where(outbox.c.id.in_(first)).order_by(outbox.c.id)
            )
            return [(row.recipient, row.not_before) for row in rows]

    async def _drain_guarded(self, group: asyncio.TaskGroup, recipient: str) -> None:
        try:
            async with self._turns:
                await self._drain(recipient)
        except BusDown as error:
            log.warning("bus down; outgoing messages wait", error=str(error))
            self._pause()
        except (StoreDown, SQLAlchemyError):
            log.exception("outbox unusable; messages may be published twice", to=recipient)
            self._pause()
        finally:
            del self._draining[recipient]
        if recipient in self._again:
            self._again.discard(recipient)
            self._start_drain(group, recipient)

    def _pause(self) -> None:
        """Publish nothing for a moment, then search the table for all that waits."""
        self._down_until_s = asyncio.get_running_loop().time() + self._policy.bus_down_retry_s
        self._again.clear()
        self._wake_in(self._policy.bus_down_retry_s)

    def _wake_in(self, seconds: float) -> None:
        """Search the table after so long at the latest."""
        self._scan_again_in(seconds)
        self._store.outgoing.set()  # `run` wakes, and waits until the earlier time

    async def _drain(self, recipient: str) -> None:
        """Publish one recipient's due messages in order; raises `BusDown`."""
        drain = self._drain_alone if self._store.dialect == "sqlite" else self._drain_among_others
        while await drain(Party.parse(recipient)):
            pass

    async def _drain_alone(self, to: Party) -> bool:
        """Publish a batch that no other process publishes. True if there may be more to publish now."""
        async with self._store.reading() as connection:
            rows = await self._next(connection, str(to))
        sent: list[int] = []
        try:
            return await self._send(to, rows, sent)
        finally:
            self._mark_later(sent)

    async def _drain_among_others(self, to: Party) -> bool:
        """The same while other processes publish from the same PostgreSQL: a lock keeps the order, so that the marks
        are made under it, in one transaction.
        """
        sent: list[int] = []
        stopped_by: BaseException | None = None
        has_more = False
        async with self._store.transaction() as tx:
            await tx.execute(_SOLE_SENDER, {"name": f"vmport.outbox.{to}"})
            rows = await self._next(tx.connection, str(to))
            try:
                has_more = await self._send(to, rows, sent)
            except (BusDown, asyncio.CancelledError) as error:
                stopped_by = error  # what went before is marked all the same
            if sent:
                await _mark(tx, sent)
        if stopped_by is not None:
            raise stopped_by
        return has_more

    async def _send(self, to: Party, rows: Sequence[_Pending], sent: list[int]) -> bool:
        """Publish in order, and put into ``sent`` what is done with. True if there may be more to publish now."""
        for row in rows:
            await self._store.turns.give_way()
            if not await self._send_one(to, row):
                return False
            sent.append(row.id)
        # What is committed from now on starts another drain.
        return len(rows) == self._policy.batch

    async def _next(self, connection: AsyncConnection, recipient: str) -> list[_Pending]:
        """The recipient's first unsent messages, up to the first one that is not due."""
        columns = [outbox.c[name] for name in _Pending.__dataclass_fields__]
        statement = (
            select(*columns)
            .where(outbox.c.recipient == recipient, outbox.c.sent_at.is_(None))
            .order_by(outbox.c.id)
            .limit(self._policy.batch + len(self._unmarked))
        )
        rows = [_Pending(*row) for row in await connection.execute(statement)]
        now = self._store.clock()
        due: list[_Pending] = []
        for row in [row for row in rows if row.id not in self._unmarked][: self._policy.batch]:
            if row.not_before > now:
                self._wake_in((row.not_before - now).total_seconds())
                break
            due.append(row)
        return due

    async def _send_one(self, to: Party, row: _Pending) -> bool:
        """Publish one message; False if it must be tried again later. An expired one counts as done."""
        now = self._store.clock()
        if row.expires_at is not None and row.expires_at < now:
            expired_at = row.expires_at.isoformat()
            log.info("message dropped", reason=f"expired at {expired_at}", **_facts(to, row))
            return True
        if now - row.created_at > self._policy.give_up_after:
            since = row.created_at.isoformat()
            log.error("message dropped", reason=f"undeliverable since {since}", **_facts(to, row))
            return True
        try:
            await self._bus.publish(to, open_envelope(row.envelope.encode()))
        except MessageError as error:
            reason = "this release cannot read it back"
            log.error("message dropped", reason=reason, error=str(error), **_facts(to, row))  # noqa: TRY400  # no traceback needed
            return True
        except Undeliverable as error:
            await self._postpone(row, str(error))
            log.warning(
                "message not delivered; trying again", attempt=row.attempts + 1, error=str(error), **_facts(to, row)
            )
            return False
        return True

    async def _postpone(self, row: _Pending, error: str) -> None:
        attempts = row.attempts + 1
        delay = self._policy.retry_delay(attempts)
        async with self._store.transaction() as tx:
            await tx.execute(
                update(outbox)
                .where(outbox.c.id == row.id)
                .values(attempts=attempts, last_error=error[:1000], not_before=tx.now + delay)
            )
        self._wake_in(delay.total_seconds())

    async def _housekeeping(self) -> None:
        """Report the depth; now and then forget old rows."""
        try:
            if self._on_depth is not None:
                self._on_depth(await self._store.outbox_depth())
            now = self._store.clock()
            if self._pruned_at is None or now - self._pruned_at >= self._policy.prune_every:
                await self.prune()
                self._pruned_at = now
        except (StoreDown, SQLAlchemyError):
            log.exception("outbox cannot be pruned; trying again")

    async def prune(self) -> None:
        """Delete published messages and inbox marks that are older than the policy keeps them."""
        now, policy = self._store.clock(), self._policy
        await prune(self._store, sent_before=now - policy.keep_sent, received_before=now - policy.keep_inbox)


async def _mark(tx: Transaction, ids: Sequence[int]) -> None:
    """Mark as sent. A mark that is lost costs a duplicate only."""
    if tx.dialect != "sqlite":
        await tx.execute(_NEED_NOT_LAST)
    await tx.execute(update(outbox).where(outbox.c.id.in_(ids)).values(sent_at=tx.now))


def _facts(to: Party, row: _Pending) -> dict[str, str]:
    return {"message": row.type, "message_id": str(row.message_id), "to": str(to)}
