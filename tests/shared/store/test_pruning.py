"""Old rows go in small parts, so that others may write between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update

from shared.messages.service_change import PortAccepted
from shared.parties import BROKER, tenant
from shared.store import Store, inbox, outbox, utc_now
from shared.store.pruning import prune

MANY = 7


@pytest.fixture
async def store(store_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """With rows of both tables, of which all but one are old; three go at once."""
    monkeypatch.setattr("shared.store.pruning.BATCH", 3)
    async with Store(store_url, BROKER) as opened:
        await opened.create_schema()
        for _ in range(MANY):
            async with opened.transaction() as tx:
                await tx.first_time(await tx.send(tenant("acme"), PortAccepted(port_id=uuid4())))
        long_ago = utc_now() - timedelta(days=30)
        async with opened.transaction() as tx:
            newest = select(func.max(outbox.c.id)).scalar_subquery()
            await tx.execute(update(outbox).where(outbox.c.id != newest).values(sent_at=long_ago))
            await tx.execute(update(inbox).values(received_at=long_ago))
        yield opened


async def _left(store: Store) -> tuple[int, int]:
    async with store.reading() as connection:
        counts = [await connection.scalar(select(func.count()).select_from(table)) for table in (outbox, inbox)]
    return counts[0] or 0, counts[1] or 0


async def test_what_is_old_goes_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not sent stays, however old it is; no transaction takes more than its part."""
    left_after: list[int] = []
    begin = store.transaction

    async def note() -> None:
        left_after.append(sum(await _left(store)))

    class Noted:
        async def __aenter__(self) -> object:
            self._inner = begin()
            return await self._inner.__aenter__()

        async def __aexit__(self, *error: object) -> None:
            await self._inner.__aexit__(None, None, None)
            await note()

    monkeypatch.setattr(store, "transaction", Noted)
    at = utc_now() - timedelta(days=1)
    await prune(store, sent_before=at, received_before=at)
    assert left_after == [11, 8, 8, 5, 2, 1]
    assert await _left(store) == (1, 0)


async def test_what_is_not_old_stays(store: Store) -> None:
    """By the times that the caller gives."""
    at = utc_now() - timedelta(days=40)
    await prune(store, sent_before=at, received_before=at)
    assert await _left(store) == (MANY, MANY)
