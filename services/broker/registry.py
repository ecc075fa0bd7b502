"""The registry: who serves this VM. Fed by the providers' reports, and by switchover through the ledger.

A provider may say what it has, not whose it is against the ownership log: a report that lists a VM whose newest
epoch belongs to another provider changes nothing; it is recorded as a conflict, which blocks ports of that VM until an
operator has resolved it. While a port of the VM is under way, its donor and its recipient may both see it: that is no
conflict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import ledger
from services.broker.plans.records import take_catalogue
from services.broker.rules import Facts, KnownVm
from services.broker.tables import conflicts, epochs, nodes, providers, vms
from shared.messages.nodes import CapacityReported, InventoryReported, OwnedVm
from shared.messages.service_change import PortRequested
from shared.parties import Name, Party
from shared.store import Transaction

CHUNK = 500
"""VMs per statement, because databases limit the number of parameters."""

FUTURE_TOLERANCE = timedelta(minutes=5)
"""A report from further in the future would hide all later ones; its time is cut to now plus this."""


async def take_inventory(tx: Transaction, provider: Name, report: InventoryReported) -> int:
    """Enter a provider's inventory; returns how many of its VMs belong to another provider."""
    at = min(report.at, tx.now + FUTURE_TOLERANCE)
    await _hear_nodes(tx, provider, report.nodes_silent_s)
    if not await _newer(tx, provider, at):
        return 0
    conflicting: list[UUID] = []
    for start in range(0, len(report.vms), CHUNK):
        conflicting += await _enter_vms(tx, provider, report.vms[start : start + CHUNK], at)
    settled = delete(conflicts).where(conflicts.c.provider == provider)
    if conflicting:
        settled = settled.where(conflicts.c.vm_uuid.not_in(conflicting))
    await tx.execute(settled)
    # What this report lists was stamped with its time just now; what is older was not listed. A VM that came by a port
    # after the report was written cannot be in it.
    newest = (epochs.c.vm_uuid == vms.c.uuid) & (epochs.c.epoch == vms.c.epoch)
    came_later = exists().where(newest, epochs.c.committed_at > at)
    await tx.execute(
        update(vms)
        .where(vms.c.provider == provider, vms.c.reported_at < at, vms.c.missing_since.is_(None), ~came_later)
        .values(missing_since=tx.now)
    )
    return len(conflicting)


async def _newer(tx: Transaction, provider: Name, at: datetime) -> bool:
    """Record the report's time; False if a later report was recorded before."""
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


async def _enter_vms(tx: Transaction, provider: Name, listed: Sequence[OwnedVm], at: datetime) -> list[UUID]:
    """Enter a part of a report; returns the VMs that belong to others. Few statements: all ports wait meanwhile."""
    statement = (
        select(vms, epochs.c.committed_at)
        .join(epochs, (epochs.c.vm_uuid == vms.c.uuid) & (epochs.c.epoch == vms.c.epoch))
        .where(vms.c.uuid.in_([owned.vm.uuid for owned in listed]))
        .with_for_update(of=vms)
    )
    known = {row.uuid: row for row in await tx.execute(statement)}
    seen: list[UUID] = []
    conflicting: list[UUID] = []
    found: list[OwnedVm] = []
    for owned in {each.vm.uuid: each for each in listed}.values():
        row = known.get(owned.vm.uuid)
        if row is None:
            found.append(owned)
        elif at < row.committed_at:
            # Written before the VM last changed its owner, so it says nothing about the present.
            seen += [row.uuid] if row.provider == provider else []
        elif row.provider == provider:
            await _describe(tx, row, owned)
            seen.append(row.uuid)
        elif not await ledger.takes_part(tx.connection, row.uuid, provider):
            await _flag(tx, provider, row.uuid)
            conflicting.append(row.uuid)
    if found:
        await _enter_found(tx, provider, found, at)
    if seen:
        stamp = update(vms).where(vms.c.uuid.in_(seen)).values(reported_at=at, missing_since=None)
        await tx.execute(stamp)
    return conflicting


async def _enter_found(tx: Transaction, provider: Name, found: Sequence[OwnedVm], at: datetime) -> None:
    """VMs that were never reported: they belong to the provider that reports them first, from epoch 1 on."""
    ours = {"provider": provider, "epoch": 1, "reported_at": at}
    await tx.execute(insert(vms), [{"uuid": owned.vm.uuid, **ours, **_facts(owned)} for owned in found])
    first = {"epoch": 1, "owner": provider, "committed_at": tx.now}
    await tx.execute(insert(epochs), [{"vm_uuid": owned.vm.uuid, **first} for owned in found])


async def _describe(tx: Transaction, row: Row[Any], owned: OwnedVm) -> None:
    """Update what the VM's owner reports about it."""
    facts = _facts(owned)
    if any(getattr(row, name) != value for name, value in facts.items()):
        await tx.execute(update(vms).where(vms.c.uuid == row.uuid).values(**facts))


def _facts(owned: OwnedVm) -> dict[str, Any]:
    return {
        "name": owned.vm.name,
        "node": owned.node,
        "tenant": owned.tenant,
        "summary": owned.vm.model_dump_json(),
    }


async def _flag(tx: Transaction, provider: Name, vm_uuid: UUID) -> None:
    """Record a conflict, with the times of the first and the last report."""
    mine = (conflicts.c.vm_uuid == vm_uuid) & (conflicts.c.provider == provider)
    first = (await tx.execute(select(conflicts.c.first_seen).where(mine))).scalar_one_or_none()
    values = {"vm_uuid": vm_uuid, "provider": provider, "first_seen": first or tx.now, "last_seen": tx.now}
    await tx.upsert(conflicts, values, key=("vm_uuid", "provider"))


async def take_capacity(tx: Transaction, provider: Name, report: CapacityReported) -> None:
    """Enter a provider's free capacity, and its price list where the report has it."""
    at = min(report.at, tx.now + FUTURE_TOLERANCE)
    await _hear_nodes(tx, provider, report.nodes_silent_s)
    await _touch(tx, provider)
    if report.catalogue is not None:
        await take_catalogue(tx, provider, report.catalogue, at)
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


async def _hear_nodes(tx: Transaction, provider: Name, silent_s: Mapping[Name, float]) -> None:
    """Note when each node was heard; the newest of what both agents say counts."""
    known = {row.name: row.heard_at for row in await tx.execute(select(nodes).where(nodes.c.provider == provider))}
    for name, seconds in sorted(silent_s.items()):
        heard_at = tx.now - timedelta(seconds=seconds)
        if name not in known or known[name] < heard_at:
            await tx.upsert(nodes, {"provider": provider, "name": name, "heard_at": heard_at}, key=("provider", "name"))


async def node_heard_at(connection: AsyncConnection, party: Party) -> datetime | None:
    """When a node was last heard by an agent of its provider; None if it never was."""
    mine = (nodes.c.provider == party.owner) & (nodes.c.name == party.node)
    found: datetime | None = (await connection.execute(select(nodes.c.heard_at).where(mine))).scalar_one_or_none()
    return found


async def facts_for(
    connection: AsyncConnection, request: PortRequested, tenant: Name, *, now: datetime, silent_after: timedelta
) -> Facts:
    """What the rules need to know about a request."""
    row = (await connection.execute(select(vms).where(vms.c.uuid == request.vm_uuid))).one_or_none()
    claims = await connection.execute(select(conflicts.c.provider).where(conflicts.c.vm_uuid == request.vm_uuid))
    # Only a provider that reports capacity has a recipient agent that could answer.
    known = list(await connection.execute(select(providers).where(providers.c.capacity_at.is_not(None))))
    return Facts(
        vm=KnownVm(row.uuid, row.name, row.provider, row.node, row.tenant, row.epoch) if row else None,
        providers=frozenset(each.name for each in known),
        silent=frozenset(each.name for each in known if each.capacity_at < now - silent_after),
        port_under_way=await ledger.port_under_way(connection, request.vm_uuid),
        claimed_by=min((claim.provider for claim in claims), default=None),
        active_ports_of_tenant=await ledger.count_active_of(connection, tenant),
    )
