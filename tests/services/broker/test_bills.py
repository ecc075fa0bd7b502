"""Bills out of the ledger, on both database engines."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

from services.broker import credit_records, ledger, queries
from services.broker.costs.bill import Credit
from services.broker.saga import SagaState
from shared.messages.billing import BillShown, ShowBill
from shared.messages.costs import EgressTariff, EgressTier, LeavingTerms
from shared.messages.queries import QueryFailed
from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_ledger import add, new_state
from tests.support.broker_samples import NOW, PORT, VM, Conversation, request

TERMS = LeavingTerms(fee=Decimal("4.00"), egress=EgressTariff(tiers=(EgressTier(price_per_gb=Decimal("0.10")),)))


async def complete(store: Store, state: SagaState) -> None:
    """A port that has completed, with its record."""
    assert state.sla is not None
    await add(store, state)
    async with store.transaction() as tx:
        await ledger.record_sla(tx, state, state.sla)


def completed() -> SagaState:
    """The sample's port, with terms of its donor."""
    return Conversation.begin(request()).completed().state.with_(leaving=TERMS)


async def test_a_bill(store: Store, clock: ManualClock) -> None:
    """The lines as they were measured, and the credits given until now, but for those after the VM has left again."""
    await complete(store, completed())
    given = {"provider": "beta", "currency": "EUR", "reason": "late", "guarantee": "total time"}
    later = Credit(vm_uuid=VM, amount=Decimal("0.25"), at=NOW + timedelta(days=1), **given)
    async with store.transaction() as tx:
        await credit_records.give(tx, Credit(port_id=PORT, amount=Decimal("1.50"), at=NOW, **given))
        await credit_records.give(tx, later)
        await credit_records.give(tx, later.model_copy(update={"at": NOW + timedelta(days=9)}))
    await clock.advance(5 * 86_400)
    state = completed()
    again = state.request.model_copy(update={"port_id": uuid4()})
    await complete(store, state.with_(request=again))
    async with store.reading() as connection:
        shown = await queries.answer(connection, ShowBill(port_id=PORT), "acme")
    assert isinstance(shown, BillShown)
    bill = shown.bill
    amounts = [(line.kind.value, line.amount) for line in bill.lines if line.amount]
    assert amounts == [("leaving_fee", Decimal("4.00")), ("credit", Decimal("-1.50")), ("credit", Decimal("-0.25"))]
    assert (bill.completed_at, bill.vm_name, bill.currency) == (NOW, "web", "EUR")
    assert [(each.total, each.due) for each in bill.totals] == [(Decimal("2.25"), Decimal("2.25"))]


async def test_no_bill(store: Store) -> None:
    """Of another tenant's port as of none; and before the end there is nothing to bill."""
    await add(store, new_state())
    async with store.reading() as connection:
        foreign = await queries.answer(connection, ShowBill(port_id=PORT), "globex")
        none = await queries.answer(connection, ShowBill(port_id=VM), "acme")
        early = await queries.answer(connection, ShowBill(port_id=PORT), "acme")
    assert isinstance(foreign, QueryFailed)
    assert isinstance(none, QueryFailed)
    assert foreign.model_dump_json().replace(str(PORT), "") == none.model_dump_json().replace(str(VM), "")
    assert isinstance(early, QueryFailed)
    assert (early.code, "is approval: a bill is made when" in early.detail) == ("no_bill", True)
