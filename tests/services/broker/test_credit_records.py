"""Credits in the ledger, on both database engines."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from services.broker import credit_records
from services.broker.costs.bill import Credit
from shared.store import Store
from tests.support.broker_ledger import add, new_state
from tests.support.broker_samples import NOW, PORT, VM


def credit(**changes: Any) -> Credit:
    """Of the sample's port."""
    facts: dict[str, Any] = {
        "port_id": PORT,
        "provider": "beta",
        "amount": Decimal("1.50"),
        "currency": "EUR",
        "reason": "600 ms instead of 500 ms",
        "guarantee": "downtime",
        "at": NOW,
        **changes,
    }
    return Credit(**facts)


async def test_of_a_port_and_of_its_vm_since_then(store: Store) -> None:
    """Those of the port, and those of the VM from the port's end until the next one; what is another's is not there."""
    await add(store, new_state())
    mine = credit()
    of_vm = credit(port_id=None, vm_uuid=VM, at=NOW + timedelta(days=1), guarantee="availability")
    too_early = of_vm.model_copy(update={"at": NOW - timedelta(days=1)})
    too_late = of_vm.model_copy(update={"at": NOW + timedelta(days=2)})
    another = of_vm.model_copy(update={"vm_uuid": uuid4()})
    async with store.transaction() as tx:
        for each in (too_late, of_vm, another, mine, too_early):
            await credit_records.give(tx, each)
    async with store.reading() as connection:
        until_next = await credit_records.of_port(connection, PORT, VM, since=NOW, until=NOW + timedelta(days=2))
        still_there = await credit_records.of_port(connection, PORT, VM, since=NOW, until=None)
    assert until_next == (mine, of_vm)
    assert still_there == (mine, of_vm, too_late)


@pytest.mark.parametrize("wrong", [{"amount": Decimal(0)}, {"port_id": None}, {"port_id": uuid4()}])
async def test_the_database_refuses_what_is_none(store: Store, wrong: dict[str, Any]) -> None:
    """A credit is an amount, for a port that is known or for a VM."""
    await add(store, new_state())
    with pytest.raises(IntegrityError):
        async with store.transaction() as tx:
            await credit_records.give(tx, credit(**wrong))
