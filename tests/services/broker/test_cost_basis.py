"""What the ledger knows of money when a port begins, on both database engines."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID, uuid4

from services.broker import ledger
from services.broker.cost_basis import promises_of, read_basis
from services.broker.costs.basis import Basis
from services.broker.costs.promises import Kept
from shared.store import Store
from tests.support.broker_ledger import add
from tests.support.broker_samples import PORT, VM, Conversation, request


async def record(store: Store, recipient: str, *, kept: bool, vm_uuid: UUID | None = None, price: str = "9.00") -> None:
    """A completed port with its SLA record."""
    done = Conversation.begin(request()).completed().state
    assert done.sla is not None
    assert done.chosen is not None
    asked = done.request.model_copy(update={"port_id": uuid4(), "vm_uuid": vm_uuid or uuid4(), "recipient": recipient})
    state = done.with_(request=asked, chosen=done.chosen.model_copy(update={"provider": recipient}))
    await add(store, state)
    sla = done.sla.model_copy(update={"kept": kept, "price_per_month": Decimal(price)})
    async with store.transaction() as tx:
        await ledger.record_sla(tx, state, sla)


async def test_record_of_kept_promises(store: Store) -> None:
    """Of those that are asked about; one that made no promise is not there."""
    for kept in (True, True, False):
        await record(store, "beta", kept=kept)
    await record(store, "gamma", kept=True)
    async with store.reading() as connection:
        found = await promises_of(connection, ("beta", "delta"))
    assert found == {"beta": Kept(kept=2, total=3)}


async def test_todays_price_is_that_of_the_last_port(store: Store) -> None:
    """At which the VM came to the provider that it leaves now; nothing else is taken for it."""
    await record(store, "alpha", kept=True, vm_uuid=VM, price="7.50")
    await record(store, "alpha", kept=True, price="3.00")
    await record(store, "beta", kept=True, vm_uuid=VM, price="1.00")
    known = Basis(broken_promise_percent=Decimal(3))
    async with store.reading() as connection:
        found = await read_basis(connection, known, request(port_id=PORT), ("beta",))
    assert found.price_now is not None
    assert (found.price_now.per_month, found.price_now.currency) == (Decimal("7.50"), "EUR")
    assert found.broken_promise_percent == 3
    assert found.kept_by("beta") == Kept(kept=1, total=1)


async def test_a_first_port(store: Store) -> None:
    """Nothing is known, and nothing is made up."""
    async with store.reading() as connection:
        found = await read_basis(connection, Basis(), request(), ())
    assert (found.price_now, found.promises) == (None, {})
