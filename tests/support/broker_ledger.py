"""A broker's ledger with one VM and one recipient in it, for tests of ledger, registry, queries and steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from sqlalchemy import select

from services.broker import ledger, queries, registry
from services.broker.migrate import migrate
from services.broker.saga import SagaState, Timing, begin
from services.broker.tables import conflicts, epochs
from shared.messages.queries import ListVms, VmsListed
from shared.parties import BROKER
from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_samples import PORT, VM, Conversation, capacity, inventory, request


@asynccontextmanager
async def open_ledger(url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """A migrated ledger that knows one VM of acme at alpha, and beta's capacity."""
    async with Store(url, BROKER, clock=clock) as opened:
        await migrate(opened)
        async with opened.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(clock(), VM))
            await registry.take_capacity(tx, "beta", capacity(clock()))
        yield opened


def new_state(port_id: UUID = PORT, *, dry_run: bool = False) -> SagaState:
    """A port that has just begun."""
    return begin(
        request(port_id=port_id, dry_run=dry_run),
        tenant_name="acme",
        vm_name="web",
        epoch=1,
        candidates=("beta",),
        now=Conversation.begin(request()).now,
        timing=Timing(),
    ).state


async def add(store: Store, state: SagaState) -> None:
    """A port in the ledger."""
    async with store.transaction() as tx:
        await ledger.add(tx, state)


async def load(store: Store, port_id: UUID = PORT) -> ledger.StoredPort:
    """A port out of the ledger."""
    async with store.reading() as connection:
        found = await ledger.look(connection, port_id)
    assert found is not None
    return found


async def claimants(store: Store) -> list[str]:
    """Who reports the VM without owning it."""
    async with store.reading() as connection:
        return [row.provider for row in await connection.execute(select(conflicts.c.provider))]


async def owners(store: Store) -> list[tuple[int, str]]:
    """The VM's ownership log."""
    async with store.reading() as connection:
        rows = await connection.execute(
            select(epochs.c.epoch, epochs.c.owner).where(epochs.c.vm_uuid == VM).order_by(epochs.c.epoch)
        )
        return [(row.epoch, row.owner) for row in rows]


async def registered_vms(store: Store) -> VmsListed:
    """Acme's VMs, as the registry shows them."""
    async with store.reading() as connection:
        answer = await queries.answer(connection, ListVms(), "acme")
    assert isinstance(answer, VmsListed)
    return answer
