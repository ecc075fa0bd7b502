"""Who serves a VM, at which addresses, by which epoch: the ledger's word, for tenants and for DNS. Reads only.

The owner and the epoch are those of the ownership log. The addresses are those of the newest port that committed an
epoch and knew any: a port keeps a VM's addresses, so what an earlier one knew stays true.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import ledger
from services.broker.saga import SagaState
from services.broker.tables import dns_names, epochs, vms
from shared.messages.addresses import LocateVm, VmLocated
from shared.messages.network import CardNetwork, is_routable
from shared.messages.queries import QueryFailed
from shared.parties import Name

LOOKED_AT = 20
"""Ports of one VM among which the newest that knows addresses is looked for."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a VM is served by its newest epoch."""

    vm_uuid: UUID
    vm_name: str
    tenant: Name
    provider: Name
    node: Name
    epoch: int
    since: datetime
    ported_by: UUID | None
    """The port that committed this epoch; None for a VM that was never ported."""
    addresses: tuple[str, ...] = ()


async def whereabouts(connection: AsyncConnection, vm_uuid: UUID) -> Whereabouts | None:
    """Of one VM; None where the registry has none of this id."""
    newest = (epochs.c.vm_uuid == vms.c.uuid) & (epochs.c.epoch == vms.c.epoch)
    statement = select(vms, epochs.c.committed_at, epochs.c.port_id).join(epochs, newest).where(vms.c.uuid == vm_uuid)
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    return Whereabouts(
        vm_uuid=vm_uuid,
        vm_name=row.name,
        tenant=row.tenant,
        provider=row.provider,
        node=row.node,
        epoch=row.epoch,
        since=row.committed_at,
        ported_by=row.port_id,
        addresses=await _addresses(connection, vm_uuid),
    )


async def located(connection: AsyncConnection, question: LocateVm, tenant: Name) -> VmLocated | QueryFailed:
    """The answer to a tenant; about a VM of another one it is the same as about none."""
    place = await whereabouts(connection, question.vm_uuid)
    if place is None or place.tenant != tenant:
        return QueryFailed(code="not_found", detail=f"there is no VM {question.vm_uuid} of yours")
    known = (await connection.execute(select(dns_names).where(dns_names.c.vm_uuid == place.vm_uuid))).one_or_none()
    is_written = known is not None and bool(known.written)
    return VmLocated(
        vm_uuid=place.vm_uuid,
        vm_name=place.vm_name,
        provider=place.provider,
        node=place.node,
        epoch=place.epoch,
        since=place.since,
        addresses=place.addresses,
        dns_name=f"{known.label}.{known.zone}" if known is not None and is_written else "",
        dns_epoch=known.epoch if known is not None and is_written else None,
    )


async def _addresses(connection: AsyncConnection, vm_uuid: UUID) -> tuple[str, ...]:
    mine = (epochs.c.vm_uuid == vm_uuid) & epochs.c.port_id.is_not(None)
    newest = select(epochs.c.port_id).where(mine).order_by(epochs.c.epoch.desc()).limit(LOOKED_AT)
    for port_id in dict.fromkeys(await connection.scalars(newest)):
        stored = await ledger.look(connection, port_id)
        if stored is not None and (found := _addresses_of(stored.state)):
            return found
    return ()


def _addresses_of(state: SagaState) -> tuple[str, ...]:
    cards: tuple[CardNetwork, ...] = ()
    if state.agreement is not None and state.agreement.network is not None:
        cards = tuple(each.card for each in state.agreement.network.cards)
    elif state.identity is not None and state.identity.vm.network is not None:
        cards = state.identity.vm.network.cards
    told = (each.address for card in cards for each in card.addresses)
    return tuple(dict.fromkeys(address for address in told if is_routable(address)))
