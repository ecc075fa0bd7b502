"""The ledger of ports: saves and loads sagas, keeps their record, commits epochs. SQL only; decides nothing.

Two brokers may share one PostgreSQL: `load` locks the port's row until the transaction ends, so that steps of one
port happen one after the other, and `save` checks the version besides. On SQLite the transaction's write lock does
the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker.saga import CommitEpoch, SagaState
from services.broker.tables import epochs, port_events, ports, sla_records, vms
from shared.errors import VmportError
from shared.messages.base import MAX_TEXT
from shared.messages.queries import RecordedEvent
from shared.messages.service_change import PortPhase, PortProgressed, SlaRecord
from shared.parties import Name
from shared.store import Transaction


class LedgerConflict(VmportError):
    """The ledger has changed since the step was decided; the step is decided again on what is stored now."""

    code = "ledger_conflict"


@dataclass(frozen=True, slots=True)
class StoredPort:
    """A port as it stands in the ledger."""

    state: SagaState
    version: int
    percent: int
    progress: PortProgressed | None
    progress_at: datetime | None
    requested_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """One line for a port's record."""

    sender: str
    type: str
    phase: PortPhase
    verdict: str
    detail: str = ""
    message_id: UUID | None = None
    body: str | None = None


def _stored(row: Row[Any]) -> StoredPort:
    return StoredPort(
        state=SagaState.model_validate_json(row.state),
        version=row.version,
        percent=row.percent,
        progress=PortProgressed.model_validate_json(row.progress) if row.progress else None,
        progress_at=row.progress_at,
        requested_at=row.requested_at,
        updated_at=row.updated_at,
    )


async def load(tx: Transaction, port_id: UUID) -> StoredPort | None:
    """The port, locked until the transaction ends; None if there is no such port."""
    row = (await tx.execute(select(ports).where(ports.c.port_id == port_id).with_for_update())).one_or_none()
    return _stored(row) if row else None


async def look(connection: AsyncConnection, port_id: UUID) -> StoredPort | None:
    """The port, for reading only."""
    row = (await connection.execute(select(ports).where(ports.c.port_id == port_id))).one_or_none()
    return _stored(row) if row else None


def _columns(state: SagaState, now: datetime) -> dict[str, Any]:
    return {
        "vm_name": state.identity.vm.name if state.identity else state.vm_name,
        "recipient": state.recipient,
        "phase": state.phase.value,
        "active": not state.ended,
        "state": state.model_dump_json(),
        "updated_at": now,
        "ended_at": now if state.ended else None,
    }


async def add(tx: Transaction, state: SagaState) -> None:
    """A new port. Raises IntegrityError if the id is taken, or if another port of the VM is under way."""
    await tx.execute(
        insert(ports).values(
            port_id=state.port_id,
            tenant=state.tenant,
            vm_uuid=state.request.vm_uuid,
            donor=state.request.donor,
            dry_run=state.request.dry_run,
            version=1,
            percent=0,
            requested_at=state.requested_at,
            **_columns(state, tx.now),
        )
    )


async def save(tx: Transaction, before: StoredPort, state: SagaState) -> None:
    """The port after a step; raises `LedgerConflict` if another broker took a step meanwhile."""
    changes = _columns(state, tx.now) | {"version": before.version + 1}
    if before.state.ended:
        del changes["ended_at"]
    statement = (
        update(ports).where(ports.c.port_id == state.port_id, ports.c.version == before.version).values(**changes)
    )
    if (await tx.execute(statement)).rowcount != 1:
        raise LedgerConflict(f"port {state.port_id} is no longer at version {before.version}")


async def save_progress(tx: Transaction, progress: PortProgressed) -> None:
    """Store the newest progress, and forget the one before; it is no step."""
    await tx.execute(
        update(ports)
        .where(ports.c.port_id == progress.port_id)
        .values(progress=progress.model_dump_json(), progress_at=tx.now, percent=progress.percent)
    )


async def record(tx: Transaction, port_id: UUID, event: Event) -> None:
    """Add a line to the port's record."""
    await tx.execute(
        insert(port_events).values(
            port_id=port_id,
            at=tx.now,
            sender=event.sender,
            type=event.type,
            phase=event.phase.value,
            verdict=event.verdict,
            detail=event.detail[:MAX_TEXT],
            message_id=event.message_id,
            body=event.body,
        )
    )


async def events_of(connection: AsyncConnection, port_id: UUID, *, limit: int = 1000) -> tuple[RecordedEvent, ...]:
    """The port's record, oldest first; of a very long one the newest lines."""
    newest = select(port_events).where(port_events.c.port_id == port_id).order_by(port_events.c.id.desc()).limit(limit)
    rows = list(await connection.execute(newest))
    return tuple(
        RecordedEvent(at=row.at, sender=row.sender, type=row.type, phase=PortPhase(row.phase), detail=row.detail)
        for row in reversed(rows)
    )


async def commit_epoch(tx: Transaction, commit: CommitEpoch, port_id: UUID) -> None:
    """Give the VM to a new owner; raises `LedgerConflict` unless the epoch before is the newest one."""
    statement = (
        update(vms)
        .where(vms.c.uuid == commit.vm_uuid, vms.c.epoch == commit.epoch - 1)
        .values(epoch=commit.epoch, provider=commit.owner, node=commit.node, missing_since=None)
    )
    if (await tx.execute(statement)).rowcount != 1:
        raise LedgerConflict(f"epoch {commit.epoch} of VM {commit.vm_uuid} does not follow the newest one")
    await tx.execute(
        insert(epochs).values(
            vm_uuid=commit.vm_uuid,
            epoch=commit.epoch,
            owner=commit.owner,
            port_id=port_id,
            committed_at=tx.now,
        )
    )


async def ported_since(connection: AsyncConnection, vm_uuid: UUID, since: datetime) -> datetime | None:
    """When the VM's owner first changed after this time; None if it has not."""
    statement = select(func.min(epochs.c.committed_at)).where(
        epochs.c.vm_uuid == vm_uuid, epochs.c.committed_at > since, epochs.c.port_id.is_not(None)
    )
    found: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
    return found


async def record_sla(tx: Transaction, state: SagaState, sla: SlaRecord) -> None:
    """Promised against measured, once per port."""
    await tx.execute(
        insert(sla_records).values(
            port_id=state.port_id,
            donor=state.request.donor,
            recipient=state.recipient,
            recorded_at=tx.now,
            **sla.model_dump(),
        )
    )


async def active_phases(connection: AsyncConnection) -> Sequence[PortPhase]:
    """The phases of all ports under way; for metrics."""
    rows = await connection.execute(select(ports.c.phase).where(ports.c.active))
    return [PortPhase(row.phase) for row in rows]


async def oldest_since(connection: AsyncConnection, phases: Collection[PortPhase]) -> dict[PortPhase, datetime]:
    """Since when the oldest port of each of these phases has been in it; for metrics."""
    statement = select(ports.c.state).where(ports.c.active, ports.c.phase.in_([phase.value for phase in phases]))
    oldest: dict[PortPhase, datetime] = {}
    for row in await connection.execute(statement):
        state = SagaState.model_validate_json(row.state)
        oldest[state.phase] = min(oldest.get(state.phase, state.phase_since), state.phase_since)
    return oldest


async def active_ports(connection: AsyncConnection) -> Sequence[UUID]:
    """All ports under way; at start, to see that each one's timers are set."""
    return list(await connection.scalars(select(ports.c.port_id).where(ports.c.active)))


async def port_under_way(connection: AsyncConnection, vm_uuid: UUID) -> UUID | None:
    """The port that moves this VM now; dry runs do not count."""
    statement = select(ports.c.port_id).where(ports.c.vm_uuid == vm_uuid, ports.c.active, ~ports.c.dry_run)
    found: UUID | None = (await connection.execute(statement)).scalar_one_or_none()
    return found


async def count_active_of(connection: AsyncConnection, tenant: Name) -> int:
    """How many ports of this tenant are under way."""
    statement = select(func.count()).select_from(ports).where(ports.c.tenant == tenant, ports.c.active)
    return int((await connection.execute(statement)).scalar_one())


def ports_of(tenant: Name, *, limit: int, active_only: bool) -> Select[Any]:
    """A tenant's ports, newest first."""
    statement = select(ports).where(ports.c.tenant == tenant)
    if active_only:
        statement = statement.where(ports.c.active)
    return statement.order_by(ports.c.requested_at.desc(), ports.c.port_id).limit(limit)


async def takes_part(connection: AsyncConnection, vm_uuid: UUID, provider: Name) -> bool:
    """Whether the provider is donor or recipient of a port of this VM that is under way."""
    mine = (ports.c.donor == provider) | (ports.c.recipient == provider)
    statement = select(exists().where(ports.c.vm_uuid == vm_uuid, ports.c.active, ~ports.c.dry_run, mine))
    return bool((await connection.execute(statement)).scalar_one())
