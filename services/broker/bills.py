"""Answers a tenant's question for a bill, out of the ledger. Reads only; the arithmetic is `costs.bill`'s."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import credit_records, ledger
from services.broker.costs.bill import Completed, bill_of
from services.broker.costs.offer import Costing
from services.broker.saga import SagaState
from services.broker.tables import ports, sla_records
from shared.messages.billing import BillShown, ShowBill
from shared.messages.queries import QueryFailed
from shared.parties import Name


async def bill_answer(connection: AsyncConnection, question: ShowBill, tenant: Name) -> BillShown | QueryFailed:
    """The bill of a completed port of this tenant's."""
    stored = await ledger.look(connection, question.port_id)
    if stored is None or stored.state.tenant != tenant:
        return QueryFailed(code="not_found", detail=f"there is no port {question.port_id} of yours")
    state = stored.state
    if state.agreement is None or state.chosen is None or state.sla is None:
        detail = f"port {question.port_id} is {state.phase}: a bill is made when a port has completed"
        return QueryFailed(code="no_bill", detail=detail)
    recorded_at = await _recorded_at(connection, question.port_id) or state.phase_since
    given = await credit_records.of_port(
        connection,
        state.port_id,
        state.request.vm_uuid,
        since=recorded_at,
        until=await _next_port_at(connection, state, recorded_at),
    )
    completed = Completed(
        agreement=state.agreement,
        quote=state.chosen,
        costing=Costing(
            donor=state.request.donor,
            limits=state.request.limits,
            now=state.agreement.fixed_at,
            leaving=state.leaving,
            basis=state.basis,
        ),
        outbound=state.outbound,
        sla=state.sla,
        completed_at=recorded_at,
        credits=given,
    )
    return BillShown(bill=bill_of(completed))


async def _recorded_at(connection: AsyncConnection, port_id: UUID) -> datetime | None:
    statement = select(sla_records.c.recorded_at).where(sla_records.c.port_id == port_id)
    found: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
    return found


async def _next_port_at(connection: AsyncConnection, state: SagaState, after: datetime) -> datetime | None:
    """When the VM left the provider again, by a port."""
    statement = (
        select(sla_records.c.recorded_at)
        .join(ports, ports.c.port_id == sla_records.c.port_id)
        .where(ports.c.vm_uuid == state.request.vm_uuid, sla_records.c.recorded_at > after)
        .order_by(sla_records.c.recorded_at)
        .limit(1)
    )
    found: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
    return found
