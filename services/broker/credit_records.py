"""Credits in the ledger: what a provider gave back for a promise that it did not keep. SQL only; decides nothing."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker.costs.bill import Credit
from services.broker.tables import credits_given
from shared.store import Transaction


async def give(tx: Transaction, credit: Credit) -> None:
    """Add a credit; it is in the bill from now on."""
    await tx.execute(insert(credits_given).values(**credit.model_dump()))


async def of_port(
    connection: AsyncConnection, port_id: UUID, vm_uuid: UUID, *, since: datetime, until: datetime | None
) -> tuple[Credit, ...]:
    """Those of one port, and those of its VM's service from the port's end until its next port's, the oldest first."""
    table = credits_given.c
    of_vm = [table.port_id.is_(None), table.vm_uuid == vm_uuid, table.at >= since]
    if until is not None:
        of_vm.append(table.at < until)
    mine = or_(table.port_id == port_id, and_(*of_vm))
    statement = select(credits_given).where(mine).order_by(table.at, table.id)
    return tuple(
        Credit(
            port_id=row.port_id,
            vm_uuid=row.vm_uuid,
            provider=row.provider,
            amount=row.amount,
            currency=row.currency,
            reason=row.reason,
            guarantee=row.guarantee,
            at=row.at,
        )
        for row in await connection.execute(statement)
    )
