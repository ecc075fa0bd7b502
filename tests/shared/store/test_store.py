"""Transactions that hold state, inbox, outbox and timers together, on both engines."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, MetaData, String, Table, insert, select

from shared.messages import AnyEnvelope, seal
from shared.messages.service_change import CancelPort, PortAccepted
from shared.parties import BROKER, tenant
from shared.store import Store, StoreUnusable, UnstorableValue, UtcDateTime, async_url, inbox, outbox, timers
from shared.testing import ManualClock

ACME = tenant("acme")
own = MetaData()
things = Table("things", own, Column("name", String(20), primary_key=True), Column("at", UtcDateTime))


@pytest.fixture
def clock() -> ManualClock:
    """Stands still."""
    return ManualClock()


@pytest.fixture
async def store(store_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """An open store with one table of a service's own."""
    async with Store(store_url, BROKER, clock=clock) as opened:
        await opened.create_schema(own)
        yield opened


def message(port_id: UUID | None = None) -> AnyEnvelope:
    """Something that a tenant says."""
    return seal(CancelPort(port_id=port_id or uuid4()), source=ACME, message_id=uuid4(), now=datetime.now(UTC))


async def names(store: Store) -> set[str]:
    """What the service's own table holds."""
    async with store.reading() as connection:
        return {row.name for row in await connection.execute(select(things.c.name))}


class TestTransaction:
    """All of it, or nothing."""

    async def test_all_together(self, store: Store) -> None:
        """A committed block leaves its state, its inbox mark, its timer and its message."""
        async with store.transaction() as tx:
            assert await tx.first_time(message())
            await tx.execute(insert(things).values(name="a"))
            await tx.arm("key", tx.now)
            await tx.send(ACME, PortAccepted(port_id=uuid4()))
        assert await names(store) == {"a"}
        assert await store.outbox_depth() == 1
        assert store.outgoing.is_set()
        assert store.timers_changed.is_set()

    async def test_nothing_after_an_error(self, store: Store) -> None:
        """A block that raises leaves nothing, wakes nobody and runs no hook."""
        ran = []
        arrived = message()

        async def fail() -> None:
            async with store.transaction() as tx:
                await tx.first_time(arrived)
                await tx.execute(insert(things).values(name="a"))
                await tx.arm("key", tx.now)
                await tx.send(ACME, PortAccepted(port_id=uuid4()))
                tx.after_commit(lambda: ran.append(1))
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await fail()
        assert (await names(store), await store.outbox_depth(), ran) == (set(), 0, [])
        assert not store.outgoing.is_set()
        async with store.transaction() as tx:
            assert await tx.first_time(arrived)

    async def test_duplicate_is_known(self, store: Store) -> None:
        """A message is handled once, whoever asks again; another sender's equal id is another message."""
        arrived = message()
        async with store.transaction() as tx:
            assert await tx.first_time(arrived)
            assert not await tx.first_time(arrived)
        async with store.transaction() as tx:
            assert not await tx.first_time(arrived)
            assert await tx.first_time(arrived.model_copy(update={"source": "tenant.globex"}))

    async def test_hooks_run_after_the_commit(self, store: Store) -> None:
        """What a hook sees is durable."""
        seen: list[str] = []
        async with store.transaction() as tx:
            await tx.execute(insert(things).values(name="a"))
            tx.after_commit(lambda: seen.append("hook"))
            assert seen == []
        assert seen == ["hook"]

    async def test_writers_take_turns(self, store: Store) -> None:
        """Many transactions at once all succeed."""

        async def write(name: str) -> None:
            async with store.transaction() as tx:
                await tx.execute(insert(things).values(name=name))

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(write(f"n{number}"))
        assert len(await names(store)) == 20

    async def test_readers_do_not_wait_for_writers(self, store: Store) -> None:
        """A reader sees the last commit while a writer is at work."""
        async with store.transaction() as tx:
            await tx.execute(insert(things).values(name="a"))
            assert await names(store) == set()
        assert await names(store) == {"a"}

    async def test_upsert(self, store: Store, clock: ManualClock) -> None:
        """A second row with the same key replaces the first."""
        for hours in (0, 1):
            async with store.transaction() as tx:
                await tx.upsert(things, {"name": "a", "at": clock() + timedelta(hours=hours)}, key=("name",))
        async with store.reading() as connection:
            assert (await connection.execute(select(things.c.at))).scalar_one() == clock() + timedelta(hours=1)

    async def test_sealed_by_the_store(self, store: Store, clock: ManualClock) -> None:
        """What is sent carries the store's party and time, its cause's conversation and its deadline."""
        cause, deadline = message(), clock() + timedelta(seconds=5)
        async with store.transaction() as tx:
            envelope = await tx.send(ACME, PortAccepted(port_id=uuid4()), cause=cause, deadline=deadline)
        assert (envelope.source, envelope.time, envelope.causationid) == ("broker", clock(), cause.id)
        async with store.reading() as connection:
            row = (await connection.execute(select(outbox))).one()
        assert (row.recipient, row.type, row.expires_at, row.sent_at) == ("tenant.acme", "PortAccepted", deadline, None)


class TestTimers:
    """Stored deadlines."""

    async def test_one_per_key(self, store: Store, clock: ManualClock) -> None:
        """Arming again moves the deadline; the old one cannot be claimed any more."""
        first, second = clock(), clock() + timedelta(seconds=9)
        async with store.transaction() as tx:
            await tx.arm("key", first, {"n": 1})
            await tx.arm("key", second, {"n": 2})
            assert not await tx.claim_timer("key", first)
            assert await tx.claim_timer("key", second)
            assert not await tx.claim_timer("key", second)

    async def test_take_timer(self, store: Store, clock: ManualClock) -> None:
        """What was stored with a deadline comes back, once; another's stays."""
        async with store.transaction() as tx:
            await tx.arm("key", clock(), {"who": "acme"})
            await tx.arm("other", clock())
            assert await tx.take_timer("key") == {"who": "acme"}
            assert await tx.take_timer("key") is None
            assert await tx.disarm("other")

    async def test_disarm(self, store: Store, clock: ManualClock) -> None:
        """A disarmed deadline is gone; disarming twice is harmless."""
        async with store.transaction() as tx:
            await tx.arm("key", clock())
            assert await tx.disarm("key")
            assert not await tx.disarm("key")
        async with store.reading() as connection:
            assert (await connection.execute(select(timers))).all() == []


class TestTimes:
    """Times are aware and UTC."""

    async def test_other_zones_are_converted(self, store: Store) -> None:
        """An hour east of UTC comes back as the same instant in UTC."""
        east = datetime(2026, 1, 1, 13, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1)))
        async with store.transaction() as tx:
            await tx.execute(insert(things).values(name="a", at=east))
        async with store.reading() as connection:
            at = (await connection.execute(select(things.c.at))).scalar_one()
        assert at == east
        assert at.tzinfo is UTC

    async def test_naive_time_is_refused(self, store: Store) -> None:
        """A time without a zone is a mistake that is caught before it is stored."""
        with pytest.raises(Exception, match="no time zone"):
            async with store.transaction() as tx:
                await tx.execute(insert(things).values(name="a", at=datetime(2026, 1, 1)))  # noqa: DTZ001  # the mistake


class TestOpening:
    """Where the store lies."""

    async def test_state_outlives_the_process(self, store_url: str) -> None:
        """What was committed is there after closing and opening again."""
        arrived = message()
        async with Store(store_url, BROKER) as first:
            await first.create_schema()
            async with first.transaction() as tx:
                await tx.first_time(arrived)
        async with Store(store_url, BROKER) as second:
            await second.create_schema()
            async with second.transaction() as tx:
                assert not await tx.first_time(arrived)
            async with second.reading() as connection:
                assert len((await connection.execute(select(inbox))).all()) == 1

    async def test_sqlite_is_durable(self, tmp_path: Path) -> None:
        """SQLite runs with a write-ahead log, full synchronisation and foreign keys."""
        async with Store(f"sqlite:///{tmp_path}/a.db", BROKER) as store, store.reading() as connection:
            found = [
                (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        assert found == ["wal", 2, 1]

    async def test_another_process_may_write(self, tmp_path: Path) -> None:
        """A writer waits for another process' write lock instead of failing."""
        async with Store(f"sqlite:///{tmp_path}/a.db", BROKER) as store:
            await store.create_schema(own)
            other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")

            async def write() -> None:
                async with store.transaction() as tx:
                    await tx.execute(insert(things).values(name="a"))

            task = asyncio.get_running_loop().create_task(write())
            done, _ = await asyncio.wait({task}, timeout=0.1)
            assert not done
            other.execute("COMMIT")
            other.close()
            await task
            assert await names(store) == {"a"}

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("mysql://x/y", "only sqlite and postgresql"),
            ("sqlite://", "needs a file"),
            ("sqlite:///:memory:", "needs a file"),
            ("nonsense", "not a database URL"),
        ],
    )
    def test_unusable_url(self, url: str, reason: str) -> None:
        """A URL that cannot hold durable state is refused with the reason."""
        with pytest.raises(StoreUnusable, match=reason):
            async_url(url)

    async def test_unreachable(self, tmp_path: Path) -> None:
        """A store that cannot be opened says so at once, without a password in the text."""
        store = Store(f"postgresql://me:secret@/db?host={tmp_path}", BROKER)
        with pytest.raises(StoreUnusable) as caught:
            await store.open()
        await store.close()
        assert "secret" not in str(caught.value)


async def test_outgoing_messages_keep_their_order(store: Store) -> None:
    """Rows of one transaction are numbered in the order of ``send``."""
    port_ids = [uuid4() for _ in range(5)]
    async with store.transaction() as tx:
        for port_id in port_ids:
            await tx.send(ACME, PortAccepted(port_id=port_id))
    assert [each.envelope.subject for each in tx.outgoing] == [str(each) for each in port_ids]
    async with store.reading() as connection:
        rows = list(await connection.execute(select(outbox).order_by(outbox.c.id)))
    assert [(row.id, str(row.message_id)) for row in rows] == [
        (each.row_id, str(each.envelope.id)) for each in tx.outgoing
    ]


async def test_urgent_work_is_not_for_the_relay_at_once(store: Store) -> None:
    """Who does the work publishes what it says; the relay takes it up a little later."""
    with store.turns.urgent():
        async with store.transaction() as tx:
            await tx.send(ACME, PortAccepted(port_id=uuid4()))
    assert store.urgent_outgoing == tx.outgoing
    assert store.take_outgoing() == set()
    async with store.reading() as connection:
        row = (await connection.execute(select(outbox))).one()
    assert row.not_before > row.created_at


async def test_value_that_can_never_be_stored(store: Store) -> None:
    """It is told from a database that is away: trying again is of no use. SQLite has no limit for text."""
    if store.dialect == "sqlite":
        return
    with pytest.raises(UnstorableValue, match="too long"):
        async with store.transaction() as tx:
            await tx.execute(insert(things).values(name="x" * 21))
