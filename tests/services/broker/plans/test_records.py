"""Plans and price lists in the ledger, on both database engines."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from services.broker import registry
from services.broker.plans import records
from services.broker.plans.group import Group, GroupMove
from services.broker.plans.records import StoredPlan, Terms
from shared.messages.plans import CreatePlan, Move, MoveState, PlanState
from shared.messages.service_change import PortLimits
from shared.store import Store, timers
from tests.support.broker_samples import NOW, VM, capacity
from tests.support.placement_samples import price_list

PLAN = UUID(int=7)
REQUEST = CreatePlan(plan_id=PLAN, name="spring", moves=(Move(vm_uuid=VM, recipient="beta"),))
STORED = StoredPlan(
    tenant="acme",
    request=REQUEST,
    group=Group(PLAN, PlanState.READY, 64, "stop", (GroupMove(VM, "web", "alpha", "beta"),)),
    result=None,
    terms=None,
    created_at=NOW,
    updated_at=NOW,
)
PORT = UUID(int=8)


async def test_what_is_saved_is_loaded(store: Store) -> None:
    """New, and after a change; for its tenant only."""
    async with store.transaction() as tx:
        await records.add(tx, STORED)
        assert await records.load(tx, PLAN) == STORED
        move = replace(STORED.group.moves[0], state=MoveState.UNDER_WAY, attempt=1, port_id=PORT)
        group = replace(STORED.group, state=PlanState.APPLYING, moves=(move,), at_once=2, on_failure="go_on")
        changed = replace(
            STORED, group=group, terms=Terms(at_once=2, on_failure="go_on", limits=PortLimits()), updated_at=tx.now
        )
        await records.save(tx, changed)
        assert await records.load(tx, PLAN) == changed
        assert await records.load(tx, PORT) is None
    async with store.reading() as connection:
        assert await records.look(connection, PLAN, "acme") == changed
        assert await records.look(connection, PLAN, "globex") is None
        assert await records.listed(connection, "acme", limit=5) == (records.shown(changed).summary,)
        assert await records.in_states(connection, PlanState.APPLYING) == (PLAN,)


async def test_a_port_that_ends_wakes_its_plan(store: Store) -> None:
    """And no other."""
    async with store.transaction() as tx:
        move = replace(STORED.group.moves[0], port_id=PORT)
        await records.add(tx, replace(STORED, group=replace(STORED.group, moves=(move,))))
        await records.port_ended(tx, UUID(int=99))
        assert (await tx.execute(timers.select())).all() == []
        await records.port_ended(tx, PORT)
        (timer,) = await tx.execute(timers.select())
        assert (timer.key, timer.due_at) == (records.timer_key(PLAN), tx.now)


async def test_price_lists(store: Store) -> None:
    """The newest report counts; one without a list changes nothing."""
    async with store.transaction() as tx:
        for price, minutes in (("60.00", 0), ("50.00", 5), ("99.00", 3)):
            report = capacity(tx.now + timedelta(minutes=minutes))
            await registry.take_capacity(tx, "beta", report.model_copy(update={"catalogue": price_list(price)}))
        await registry.take_capacity(tx, "beta", capacity(tx.now + timedelta(minutes=5)))
        assert await records.all_catalogues(tx.connection) == {"beta": price_list("50.00")}
