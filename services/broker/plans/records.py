"""Plans and price lists in the ledger: saves and loads them. SQL only; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker.plans.group import Group, GroupMove, counts
from services.broker.tables import catalogues, plan_moves, plans
from shared.messages.base import MAX_TEXT, Value
from shared.messages.catalogue import Catalogue
from shared.messages.plans import (
    MAX_AT_ONCE,
    AtOnce,
    CreatePlan,
    MoveState,
    MoveStatus,
    OnFailure,
    PlanResult,
    PlanShown,
    PlanState,
    PlanSummary,
)
from shared.messages.service_change import PortLimits
from shared.parties import Name
from shared.store import Transaction

PREFIX = "plan:"
"""Of the keys of plans' timers."""


class Terms(Value):
    """How a plan is carried out."""

    at_once: AtOnce
    on_failure: OnFailure
    limits: PortLimits


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan as it stands in the ledger."""

    tenant: Name
    request: CreatePlan
    group: Group
    result: PlanResult | None
    terms: Terms | None
    created_at: datetime
    updated_at: datetime

    @property
    def plan_id(self) -> UUID:
        """Its id."""
        return self.request.plan_id


def timer_key(plan_id: UUID) -> str:
    """The key of the timer at which a plan's ports are looked at again."""
    return f"{PREFIX}{plan_id}"


async def add(tx: Transaction, plan: StoredPlan) -> None:
    """A new plan."""
    await tx.execute(
        insert(plans).values(
            plan_id=plan.plan_id,
            tenant=plan.tenant,
            name=plan.request.name,
            request=plan.request.model_dump_json(),
            created_at=plan.created_at,
            **_columns(plan, plan.created_at),
        )
    )
    await _enter_moves(tx, plan.group)


async def save(tx: Transaction, plan: StoredPlan) -> None:
    """A plan after a change; the row is locked."""
    await tx.execute(update(plans).where(plans.c.plan_id == plan.plan_id).values(**_columns(plan, tx.now)))
    await tx.execute(delete(plan_moves).where(plan_moves.c.plan_id == plan.plan_id))
    await _enter_moves(tx, plan.group)


async def _enter_moves(tx: Transaction, group: Group) -> None:
    rows = [
        {
            "plan_id": group.plan_id,
            "number": number,
            "vm_uuid": move.vm_uuid,
            "vm_name": move.vm_name,
            "donor": move.donor,
            "recipient": move.recipient,
            "state": move.state.value,
            "attempt": move.attempt,
            "port_id": move.port_id,
            "detail": move.detail[:MAX_TEXT],
        }
        for number, move in enumerate(group.moves)
    ]
    if rows:
        await tx.execute(insert(plan_moves), rows)


def _columns(plan: StoredPlan, now: datetime) -> dict[str, Any]:
    return {
        "state": plan.group.state.value,
        "result": plan.result.model_dump_json() if plan.result is not None else None,
        "failure": plan.group.failure[:MAX_TEXT] or None,
        "terms": plan.terms.model_dump_json() if plan.terms is not None else None,
        "updated_at": now,
    }


async def load(tx: Transaction, plan_id: UUID) -> StoredPlan | None:
    """The plan, locked until the transaction ends; None if there is no such plan."""
    row = (await tx.execute(select(plans).where(plans.c.plan_id == plan_id).with_for_update())).one_or_none()
    return await _stored(tx.connection, row) if row is not None else None


async def look(connection: AsyncConnection, plan_id: UUID, tenant: Name) -> StoredPlan | None:
    """The plan, for reading only; None if this tenant has none such."""
    mine = (plans.c.plan_id == plan_id) & (plans.c.tenant == tenant)
    row = (await connection.execute(select(plans).where(mine))).one_or_none()
    return await _stored(connection, row) if row is not None else None


async def _stored(connection: AsyncConnection, row: Row[Any]) -> StoredPlan:
    statement = select(plan_moves).where(plan_moves.c.plan_id == row.plan_id).order_by(plan_moves.c.number)
    moves = tuple(
        GroupMove(
            vm_uuid=each.vm_uuid,
            vm_name=each.vm_name,
            donor=each.donor,
            recipient=each.recipient,
            state=MoveState(each.state),
            attempt=each.attempt,
            port_id=each.port_id,
            detail=each.detail,
        )
        for each in await connection.execute(statement)
    )
    terms = Terms.model_validate_json(row.terms) if row.terms else None
    return StoredPlan(
        tenant=row.tenant,
        request=CreatePlan.model_validate_json(row.request),
        group=Group(
            plan_id=row.plan_id,
            state=PlanState(row.state),
            at_once=terms.at_once if terms else MAX_AT_ONCE,
            on_failure=terms.on_failure if terms else "stop",
            moves=moves,
            failure=row.failure or "",
        ),
        result=PlanResult.model_validate_json(row.result) if row.result else None,
        terms=terms,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def shown(plan: StoredPlan) -> PlanShown:
    """As a tenant sees it."""
    return PlanShown(
        summary=_summary(plan),
        demand=plan.request.demand,
        result=plan.result,
        failure=plan.group.failure or None,
        at_once=plan.terms.at_once if plan.terms else None,
        on_failure=plan.terms.on_failure if plan.terms else None,
        moves=tuple(
            MoveStatus(
                vm_uuid=move.vm_uuid,
                vm_name=move.vm_name,
                donor=move.donor,
                recipient=move.recipient,
                state=move.state,
                port_id=move.port_id,
                detail=move.detail,
            )
            for move in plan.group.moves
        ),
    )


def _summary(plan: StoredPlan) -> PlanSummary:
    completed, not_completed = counts(move.state for move in plan.group.moves)
    return PlanSummary(
        plan_id=plan.plan_id,
        name=plan.request.name,
        state=plan.group.state,
        moves=len(plan.group.moves),
        completed=completed,
        not_completed=not_completed,
        created_at=plan.created_at,
        updated_at=plan.updated_at,
    )


async def listed(connection: AsyncConnection, tenant: Name, *, limit: int) -> tuple[PlanSummary, ...]:
    """A tenant's plans, the newest first."""
    statement = select(plans).where(plans.c.tenant == tenant).order_by(plans.c.created_at.desc(), plans.c.plan_id)
    rows = list(await connection.execute(statement.limit(limit)))
    ids = [row.plan_id for row in rows]
    states: dict[UUID, list[MoveState]] = {plan_id: [] for plan_id in ids}
    found = select(plan_moves.c.plan_id, plan_moves.c.state).where(plan_moves.c.plan_id.in_(ids))
    for move in await connection.execute(found):
        states[move.plan_id].append(MoveState(move.state))
    return tuple(_listed(row, states[row.plan_id]) for row in rows)


def _listed(row: Row[Any], states: list[MoveState]) -> PlanSummary:
    completed, not_completed = counts(states)
    return PlanSummary(
        plan_id=row.plan_id,
        name=row.name,
        state=PlanState(row.state),
        moves=len(states),
        completed=completed,
        not_completed=not_completed,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def in_states(connection: AsyncConnection, *states: PlanState) -> tuple[UUID, ...]:
    """All plans that are in one of these states, the oldest first."""
    wanted = plans.c.state.in_([state.value for state in states])
    return tuple(await connection.scalars(select(plans.c.plan_id).where(wanted).order_by(plans.c.created_at)))


async def port_ended(tx: Transaction, port_id: UUID) -> None:
    """A port has ended: if it belongs to a plan, have that looked at at once, in a transaction of its own."""
    plan_id = (await tx.execute(select(plan_moves.c.plan_id).where(plan_moves.c.port_id == port_id))).scalar()
    if plan_id is not None:
        await tx.arm(timer_key(plan_id), tx.now)


# Price lists


async def take_catalogue(tx: Transaction, provider: Name, catalogue: Catalogue, at: datetime) -> None:
    """Enter a provider's price list; an older report changes nothing."""
    known = (await tx.execute(select(catalogues).where(catalogues.c.provider == provider))).one_or_none()
    text = catalogue.model_dump_json()
    if known is None or (known.reported_at <= at and known.catalogue != text):
        values = {"provider": provider, "catalogue": text, "reported_at": at}
        await tx.upsert(catalogues, values, key=("provider",))


async def all_catalogues(connection: AsyncConnection) -> Mapping[Name, Catalogue]:
    """Every provider's newest price list."""
    rows = await connection.execute(select(catalogues).order_by(catalogues.c.provider))
    return {row.provider: Catalogue.model_validate_json(row.catalogue) for row in rows}
