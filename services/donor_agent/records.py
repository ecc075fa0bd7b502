"""The donor agent's tables: ports with their whole record, and what its nodes reported last. SQL lives here only.

A port's record is one JSON value beside the columns that are searched; ``shared.store`` gives the transaction.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import Column, MetaData, String, Table, Text, Uuid, delete, func, select

from services.donor_agent.inventory import NodeView
from services.donor_agent.port_record import OVER, UNDER_WAY, DonorPort, Phase
from shared.messages.vm import VmSummary
from shared.store import Store, Transaction, UtcDateTime

metadata = MetaData()

ports = Table(
    "donor_ports",
    metadata,
    Column("port_id", Uuid, primary_key=True),
    Column("vm_uuid", Uuid, nullable=False, index=True),
    Column("phase", String(20), nullable=False, index=True),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("record", Text, nullable=False),
)

nodes = Table(
    "donor_nodes",
    metadata,
    Column("node", String(40), primary_key=True),
    Column("said_at", UtcDateTime, nullable=False),
    Column("vms", Text, nullable=False),
)

_VMS = TypeAdapter(tuple[VmSummary, ...])


async def load_port(tx: Transaction, port_id: UUID) -> DonorPort | None:
    """One port's record."""
    row = (await tx.execute(select(ports.c.record).where(ports.c.port_id == port_id))).first()
    return DonorPort.model_validate_json(row.record) if row else None


async def save_port(tx: Transaction, port: DonorPort) -> None:
    """Store a port's record."""
    values = {
        "port_id": port.port_id,
        "vm_uuid": port.vm_uuid,
        "phase": port.phase.value,
        "updated_at": port.updated_at,
        "record": port.model_dump_json(),
    }
    await tx.upsert(ports, values, key=("port_id",))


async def under_way(tx: Transaction, *, except_port: UUID) -> tuple[int, dict[UUID, UUID]]:
    """How many other ports are under way, and which VM is in which of them."""
    phases = [phase.value for phase in UNDER_WAY]
    statement = select(ports.c.port_id, ports.c.vm_uuid).where(
        ports.c.phase.in_(phases), ports.c.port_id != except_port
    )
    rows = (await tx.execute(statement)).all()
    return len(rows), {row.vm_uuid: row.port_id for row in rows}


async def vms_in(tx: Transaction, phases: frozenset[Phase]) -> frozenset[UUID]:
    """VMs whose port is in one of these phases."""
    statement = select(ports.c.vm_uuid).where(ports.c.phase.in_([phase.value for phase in phases]))
    return frozenset(row.vm_uuid for row in await tx.execute(statement))


async def outbound_ports(tx: Transaction) -> frozenset[UUID]:
    """Ports whose transfer may run on a node of this provider because this agent started it."""
    phases = [phase.value for phase in UNDER_WAY]
    statement = select(ports.c.port_id).where(ports.c.phase.in_(phases))
    return frozenset(row.port_id for row in await tx.execute(statement))


async def figures(store: Store) -> tuple[int, int]:
    """For metrics: how many ports are under way, and how many bytes are in quarantine."""
    async with store.reading() as connection:
        active = [phase.value for phase in UNDER_WAY]
        count = await connection.scalar(select(func.count()).select_from(ports).where(ports.c.phase.in_(active)))
        kept = await connection.execute(select(ports.c.record).where(ports.c.phase == Phase.QUARANTINED.value))
        return int(count or 0), sum(DonorPort.model_validate_json(row.record).quarantined_bytes for row in kept)


async def forget_ended(tx: Transaction, before: datetime) -> None:
    """Drop records of ports that were over before this, and of nodes that were not heard since."""
    phases = [phase.value for phase in OVER]
    await tx.execute(delete(ports).where(ports.c.phase.in_(phases), ports.c.updated_at < before))
    idle = (Phase.APPROVED.value, Phase.DESCRIBING.value, Phase.INSPECTING.value)
    await tx.execute(delete(ports).where(ports.c.phase.in_(idle), ports.c.updated_at < before))
    await tx.execute(delete(nodes).where(nodes.c.said_at < before))


async def save_node(tx: Transaction, node: str, view: NodeView) -> None:
    """Keep what a node runs, so that a restarted agent knows its VMs before the next heartbeat."""
    values = {"node": node, "said_at": view.said_at, "vms": _VMS.dump_json(view.vms).decode()}
    await tx.upsert(nodes, values, key=("node",))


async def load_nodes(store: Store, now: datetime) -> dict[str, NodeView]:
    """Every node as it was kept. They count as heard just now: a node that is gone will be silent from now on."""
    async with store.reading() as connection:
        rows = await connection.execute(select(nodes))
        return {row.node: NodeView(now, row.said_at, _VMS.validate_json(row.vms)) for row in rows}
