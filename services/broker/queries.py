"""Answers to tenants' questions, out of the ledger. Reads only; a tenant sees only what is its own.

What belongs to another tenant is answered like what does not exist, so that nobody can find out which ids are in use.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import ledger
from services.broker.bills import bill_answer
from services.broker.network_queries import network_answer
from services.broker.saga import SagaState
from services.broker.tables import ports, providers, vms
from services.broker.whereabouts import located
from shared.messages import Message
from shared.messages.addresses import LocateVm, ShowNetwork
from shared.messages.billing import ShowBill
from shared.messages.queries import (
    MAX_UNSIZED,
    ListPorts,
    ListProviders,
    ListVms,
    PortShown,
    PortsListed,
    PortSummary,
    ProvidersListed,
    ProviderStatus,
    QueryFailed,
    RegisteredVm,
    ShowPort,
    VmsListed,
)
from shared.messages.service_change import PortPhase
from shared.messages.vm import VmState, VmSummary
from shared.parties import Name


async def answer(connection: AsyncConnection, question: Message, tenant: Name) -> Message | None:
    """The answer to a question; None for a message that is no question."""
    match question:
        case ListVms():
            return await _vms(connection, tenant)
        case ListProviders():
            return await _providers(connection)
        case ListPorts():
            return await _ports(connection, question, tenant)
        case ShowPort():
            return await _port(connection, question, tenant)
        case ShowNetwork():
            return await network_answer(connection, question, tenant)
        case LocateVm():
            return await located(connection, question, tenant)
        case ShowBill():
            return await bill_answer(connection, question, tenant)
        case _:
            return None


async def _vms(connection: AsyncConnection, tenant: Name) -> VmsListed:
    statement = _vms_of(tenant).order_by(vms.c.name, vms.c.uuid)
    return VmsListed(vms=tuple(_registered(row) for row in await connection.execute(statement)))


async def vm_of(connection: AsyncConnection, vm_uuid: UUID, tenant: Name) -> RegisteredVm | None:
    """One VM of this tenant; None where it has no such VM."""
    row = (await connection.execute(_vms_of(tenant).where(vms.c.uuid == vm_uuid))).one_or_none()
    return None if row is None else _registered(row)


def _vms_of(tenant: Name) -> Select[Any]:
    under_way = (ports.c.vm_uuid == vms.c.uuid) & ports.c.active & ~ports.c.dry_run
    return select(vms, ports.c.port_id).outerjoin(ports, under_way).where(vms.c.tenant == tenant)


def _registered(row: Row[Any]) -> RegisteredVm:
    summary = VmSummary.model_validate_json(row.summary)
    return RegisteredVm(
        uuid=row.uuid,
        name=row.name,
        state=VmState.OTHER if row.missing_since is not None else summary.state,
        memory_bytes=summary.memory_bytes,
        vcpus=summary.vcpus,
        disk_bytes=summary.disk_bytes,
        provider=row.provider,
        node=row.node,
        epoch=row.epoch,
        port_id=row.port_id,
        unsized_disks=summary.unsized_disks[:MAX_UNSIZED],
        problem=summary.problem,
    )


async def _providers(connection: AsyncConnection) -> ProvidersListed:
    rows = await connection.execute(select(providers).order_by(providers.c.name))
    return ProvidersListed(
        providers=tuple(
            ProviderStatus(
                name=row.name,
                last_seen=max((at for at in (row.inventory_at, row.capacity_at) if at), default=None),
                nodes=row.nodes,
                nodes_healthy=row.nodes_healthy,
                memory_free_bytes=row.memory_free_bytes,
                disk_free_bytes=row.disk_free_bytes,
            )
            for row in rows
        )
    )


async def _ports(connection: AsyncConnection, question: ListPorts, tenant: Name) -> PortsListed:
    statement = ledger.ports_of(tenant, limit=question.limit, active_only=question.active_only)
    return PortsListed(ports=tuple(_summary(row) for row in await connection.execute(statement)))


def _summary(row: Row[Any]) -> PortSummary:
    return PortSummary(
        port_id=row.port_id,
        vm_uuid=row.vm_uuid,
        vm_name=row.vm_name,
        donor=row.donor,
        recipient=row.recipient,
        phase=PortPhase(row.phase),
        percent=100 if row.phase == PortPhase.COMPLETED else row.percent,
        requested_at=row.requested_at,
        updated_at=row.updated_at,
    )


async def _port(connection: AsyncConnection, question: ShowPort, tenant: Name) -> Message:
    mine = (ports.c.port_id == question.port_id) & (ports.c.tenant == tenant)
    row = (await connection.execute(select(ports).where(mine))).one_or_none()
    stored = await ledger.look(connection, question.port_id) if row else None
    if row is None or stored is None:
        return QueryFailed(code="not_found", detail=f"there is no port {question.port_id} of yours")
    state = stored.state
    return PortShown(
        summary=_summary(row),
        request=state.request,
        agreement=state.agreement,
        progress=stored.progress,
        sla=state.sla,
        failure=_failure_text(state),
        refusals=state.refusals,
        rules=state.rules.applied,
        charges=state.rules.charges,
        events=await ledger.events_of(connection, question.port_id),
    )


def _failure_text(state: SagaState) -> str | None:
    if state.failure is not None:
        return f"{state.failure.code}: {state.failure.detail}"
    if state.refusals:
        return "; ".join(map(str, state.refusals))
    return None
