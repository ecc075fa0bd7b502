"""Answers about how a VM keeps its addresses, out of the ledger. Reads only; a tenant sees only what is its own."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import extensions, ledger
from services.broker.ledger import StoredPort
from services.broker.saga import SagaState
from services.broker.tables import ports, vms
from shared.messages.addresses import MAX_REPORTS, NetworkShown, RecordedReport, ShowNetwork
from shared.messages.queries import QueryFailed
from shared.parties import Name

LOOKED_AT = 100
"""Ports of one VM among which the newest with a plan is looked for."""


async def network_answer(
    connection: AsyncConnection, question: ShowNetwork, tenant: Name
) -> NetworkShown | QueryFailed:
    """Of the port that is named, or of a VM's newest port that keeps its addresses."""
    if question.port_id is not None:
        return await network_of_port(connection, question.port_id, tenant)
    if question.vm_uuid is None:
        return QueryFailed(code="invalid", detail="give port_id or vm_uuid")
    return await _of_vm(connection, question.vm_uuid, tenant)


async def network_of_port(connection: AsyncConnection, port_id: UUID, tenant: Name) -> NetworkShown | QueryFailed:
    """One port of this tenant."""
    stored = await ledger.look(connection, port_id)
    if stored is None or stored.state.tenant != tenant:
        return QueryFailed(code="not_found", detail=f"there is no port {port_id} of yours")
    return await _shown(connection, stored)


async def _of_vm(connection: AsyncConnection, vm_uuid: UUID, tenant: Name) -> NetworkShown | QueryFailed:
    mine = (ports.c.vm_uuid == vm_uuid) & (ports.c.tenant == tenant) & ~ports.c.dry_run
    newest = select(ports.c.port_id).where(mine).order_by(ports.c.requested_at.desc()).limit(LOOKED_AT)
    for port_id in list(await connection.scalars(newest)):
        stored = await ledger.look(connection, port_id)
        if stored is not None and stored.state.agreement is not None and stored.state.agreement.network is not None:
            return await _shown(connection, stored)
    detail = f"no port of your VM {vm_uuid} has kept its addresses: the providers' networks were taken as one"
    return QueryFailed(code="not_found", detail=detail)


async def _shown(connection: AsyncConnection, stored: StoredPort) -> NetworkShown:
    state = stored.state
    vm_uuid = state.request.vm_uuid
    owner = (await connection.execute(select(vms.c.provider, vms.c.epoch).where(vms.c.uuid == vm_uuid))).one_or_none()
    said = await extensions.reports(connection, state.port_id, limit=MAX_REPORTS)
    return NetworkShown(
        port_id=state.port_id,
        vm_uuid=vm_uuid,
        vm_name=state.vm_name,
        provider=owner.provider if owner else state.owner,
        epoch=owner.epoch if owner else state.epoch,
        plan=state.agreement.network if state.agreement else None,
        findings=_findings(state),
        extension=await extensions.shown(connection, state.port_id),
        reports=tuple(
            RecordedReport(
                at=row.at,
                sender=row.sender,
                epoch=report.epoch,
                state=report.state,
                detail=report.detail,
                first_answer_ms=report.first_answer_ms,
            )
            for row, report in said
        ),
    )


def _findings(state: SagaState) -> tuple[str, ...]:
    network = state.identity.vm.network if state.identity is not None else None
    return network.findings if network is not None else ()
