"""The registry: who serves this VM. Fed by the providers' reports, and by switchover through the ledger.

A provider may say what it has, not whose it is against the ownership log: a report that lists a VM whose newest
epoch belongs to another provider changes nothing; it is kept as a conflict, which blocks ports of that VM until an
operator has settled it. While a port of the VM is under way, its donor and its recipient may both see it: that is no
conflict.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import ledger
from services.broker.rules import Facts, KnownVm
from services.broker.tables import conflicts, epochs, providers, vms
from shared.messages.nodes import CapacityReported, InventoryReported, OwnedVm
from shared.messages.service_change import PortRequested
from shared.parties import Name
from shared.store import Transaction

FUTURE_TOLERANCE = timedelta(minutes=5)
"""A report that claims to come from later than this would silence all honest ones; it is taken as of now."""


async def take_inventory(tx: Transaction, provider: Name, report: InventoryReported) -> int:
    """Enter a provider's inventory; returns how many of its VMs belong to another provider."""
    at = min(report.at, tx.now + FUTURE_TOLERANCE)
    if not await _newer(tx, provider, at):
        return 0
    listed = {owned.vm.uuid for owned in report.vms}
    conflicting = [owned.vm.uuid for owned in report.vms if await _enter_vm(tx, provider, owned, at)]
    settled = delete(conflicts).where(conflicts.c.provider == provider)
    if conflicting:
        settled = settled.where(conflicts.c.vm_uuid.not_in(conflicting))
    await tx.execute(settled)
    missing = (
        update(vms)
        .where(vms.c.provider == provider, vms.c.reported_at < at, vms.c.missing_since.is_(None))
        .values(missing_since=tx.now)
    )
    await tx.execute(missing.where(vms.c.uuid.not_in(listed)) if listed else missing)
    return len(conflicting)


async def _newer(tx: Transaction, provider: Name, at: datetime) -> bool:
    """Note the report's time; False for one that a later one has overtaken."""
    seen = (await tx.execute(select(providers.c.inventory_at).where(providers.c.name == provider))).scalar_one_or_none()
    if seen is not None and seen > at:
        return False
    await _touch(tx, provider)
    await tx.execute(update(providers).where(providers.c.name == provider).values(inventory_at=at))
    return True


async def _touch(tx: Transaction, provider: Name) -> None:
    known = (await tx.execute(select(providers.c.name).where(providers.c.name == provider))).one_or_none()
    if known is None:
        zero = {"nodes": 0, "nodes_healthy": 0, "memory_free_bytes": 0, "disk_free_bytes": 0}
        await tx.execute(insert(providers).values(name=provider, **zero))


async def _enter_vm(tx: Transaction, provider: Name, owned: OwnedVm, at: datetime) -> bool:
    """Enter one VM of a report; True if it belongs to another provider."""
    row = (await tx.execute(select(vms).where(vms.c.uuid == owned.vm.uuid).with_for_update())).one_or_none()
    facts = {"name": owned.vm.name, "node": owned.node, "tenant": owned.tenant, "missing_since": None}
    seen = {"summary": owned.vm.model_dump_json(), "reported_at": at}
    if row is None:
        await tx.execute(insert(vms).values(uuid=owned.vm.uuid, provider=provider, epoch=1, **facts, **seen))
        await tx.execute(insert(epochs).values(vm_uuid=owned.vm.uuid, epoch=1, owner=provider, committed_at=tx.now))
        return False
    if row.provider == provider:
        if at < await _owned_since(tx, owned.vm.uuid, row.epoch):
            return False  # written before the VM became this provider's, so it says nothing about what it is there
        await tx.execute(update(vms).where(vms.c.uuid == owned.vm.uuid).values(**facts, **seen))
        return False
    if await ledger.takes_part(tx.connection, owned.vm.uuid, provider):
        return False
    if at < await _owned_since(tx, owned.vm.uuid, row.epoch):
        return False
    first = (
        await tx.execute(
            select(conflicts.c.first_seen).where(conflicts.c.vm_uuid == owned.vm.uuid, conflicts.c.provider == provider)
        )
    ).scalar_one_or_none()
    values = {
        "vm_uuid": owned.vm.uuid,
        "provider": provider,
        "first_seen": first or tx.now,
        "last_seen": tx.now,
    }
    await tx.upsert(conflicts, values, key=("vm_uuid", "provider"))
    return True


async def _owned_since(tx: Transaction, vm_uuid: UUID, epoch: int) -> datetime:
    statement = select(epochs.c.committed_at).where(epochs.c.vm_uuid == vm_uuid, epochs.c.epoch == epoch)
    since: datetime = (await tx.execute(statement)).scalar_one()
    return since


async def take_capacity(tx: Transaction, provider: Name, report: CapacityReported) -> None:
    """Enter what a provider can take."""
    at = min(report.at, tx.now + FUTURE_TOLERANCE)
    await _touch(tx, provider)
    await tx.execute(
        update(providers)
        .where(providers.c.name == provider)
        .where(providers.c.capacity_at.is_(None) | (providers.c.capacity_at <= at))
        .values(
            capacity_at=at,
            nodes=report.nodes,
            nodes_healthy=report.nodes_healthy,
            memory_free_bytes=report.memory_free_bytes,
            disk_free_bytes=report.disk_free_bytes,
        )
    )


async def facts_for(
    connection: AsyncConnection, request: PortRequested, tenant: Name, *, now: datetime, silent_after: timedelta
) -> Facts:
    """What the rules need to know about a request."""
    row = (await connection.execute(select(vms).where(vms.c.uuid == request.vm_uuid))).one_or_none()
    claims = await connection.execute(select(conflicts.c.provider).where(conflicts.c.vm_uuid == request.vm_uuid))
    # Only who reports capacity has a recipient agent that could answer.
    known = list(await connection.execute(select(providers).where(providers.c.capacity_at.is_not(None))))
    return Facts(
        vm=KnownVm(row.uuid, row.name, row.provider, row.node, row.tenant, row.epoch) if row else None,
        providers=frozenset(each.name for each in known),
        silent=frozenset(each.name for each in known if each.capacity_at < now - silent_after),
        port_under_way=await ledger.port_under_way(connection, request.vm_uuid),
        claimed_by=min((claim.provider for claim in claims), default=None),
        active_ports_of_tenant=await ledger.count_active_of(connection, tenant),
    )
