"""Reads what the ledger knows of money when a port begins: records of kept promises, today's price. SQL only."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker.costs.basis import Basis, PriceNow
from services.broker.costs.promises import Kept
from services.broker.tables import ports, sla_records
from shared.messages.service_change import PortRequested
from shared.parties import Name


async def read_basis(
    connection: AsyncConnection, known: Basis, request: PortRequested, candidates: Collection[Name]
) -> Basis:
    """What the settings say (``known``), with the ledger's facts about this VM and these providers."""
    return known.model_copy(
        update={
            "promises": await promises_of(connection, candidates),
            "price_now": await _price_now(connection, request.vm_uuid, request.donor),
        }
    )


async def promises_of(connection: AsyncConnection, providers: Collection[Name]) -> dict[Name, Kept]:
    """How many promises these providers made as recipients, and how many they kept; without those that made none."""
    kept = func.sum(case((sla_records.c.kept, 1), else_=0))
    statement = (
        select(sla_records.c.recipient, func.count().label("total"), kept.label("kept"))
        .where(sla_records.c.recipient.in_(list(providers)))
        .group_by(sla_records.c.recipient)
    )
    return {row.recipient: Kept(kept=row.kept, total=row.total) for row in await connection.execute(statement)}


async def _price_now(connection: AsyncConnection, vm_uuid: UUID, donor: Name) -> PriceNow | None:
    """The price at which the VM came to its provider, if it came by a port."""
    statement = (
        select(sla_records.c.price_per_month, sla_records.c.currency)
        .join(ports, ports.c.port_id == sla_records.c.port_id)
        .where(ports.c.vm_uuid == vm_uuid, sla_records.c.recipient == donor)
        .order_by(sla_records.c.recorded_at.desc())
        .limit(1)
    )
    row = (await connection.execute(statement)).first()
    return PriceNow(per_month=row.price_per_month, currency=row.currency) if row is not None else None
