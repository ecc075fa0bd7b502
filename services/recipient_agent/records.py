"""The recipient agent's tables: quotes, questions to nodes, reservations, its nodes' last words. SQL is here only.

A record is one JSON value beside the columns that are searched; ``shared.store`` gives the transaction.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Column, MetaData, String, Table, Text, Uuid, delete, func, select, update

from services.recipient_agent.reservation import HOLDS_CAPACITY, Phase, Reservation
from services.recipient_agent.vm_check import VmCheck
from shared.messages.nodes import NodeHeartbeat
from shared.messages.service_change import Quote
from shared.store import Store, Transaction, UtcDateTime

metadata = MetaData()

quotes = Table(
    "recipient_quotes",
    metadata,
    Column("port_id", Uuid, primary_key=True),
    Column("valid_until", UtcDateTime, nullable=False, index=True),
    Column("record", Text, nullable=False),
)

reservations = Table(
    "recipient_reservations",
    metadata,
    Column("port_id", Uuid, primary_key=True),
    Column("phase", String(20), nullable=False, index=True),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("record", Text, nullable=False),
)

checks = Table(
    "recipient_vm_checks",
    metadata,
    Column("port_id", Uuid, primary_key=True),
    Column("until", UtcDateTime, nullable=False, index=True),
    Column("record", Text, nullable=False),
)

nodes = Table(
    "recipient_nodes",
    metadata,
    Column("node", String(40), primary_key=True),
    Column("said_at", UtcDateTime, nullable=False),
    Column("heartbeat", Text, nullable=False),
)


async def save_node(tx: Transaction, node: str, heartbeat: NodeHeartbeat) -> None:
    """Keep what a node is, so that a restarted agent can answer before the next heartbeat."""
    values = {"node": node, "said_at": heartbeat.at, "heartbeat": heartbeat.model_dump_json()}
    await tx.upsert(nodes, values, key=("node",))


async def load_nodes(store: Store) -> dict[str, NodeHeartbeat]:
    """The last kept heartbeat of every node."""
    async with store.reading() as connection:
        rows = await connection.execute(select(nodes))
        return {row.node: NodeHeartbeat.model_validate_json(row.heartbeat) for row in rows}


async def save_quote(tx: Transaction, port_id: UUID, quote: Quote) -> None:
    """Remember an offer; a newer one for the same port replaces it."""
    values = {"port_id": port_id, "valid_until": quote.valid_until, "record": quote.model_dump_json()}
    await tx.upsert(quotes, values, key=("port_id",))


async def load_quote(tx: Transaction, port_id: UUID) -> Quote | None:
    """The offer made for a port."""
    row = (await tx.execute(select(quotes.c.record).where(quotes.c.port_id == port_id))).first()
    return Quote.model_validate_json(row.record) if row else None


async def drop_quote(tx: Transaction, port_id: UUID) -> None:
    """The offer is not taken."""
    await tx.execute(delete(quotes).where(quotes.c.port_id == port_id))


async def save_check(tx: Transaction, check: VmCheck, until: datetime) -> None:
    """Remember what the nodes are asked about a port's VM; a newer question for the same port replaces it."""
    values = {"port_id": check.port_id, "until": until, "record": check.model_dump_json()}
    await tx.upsert(checks, values, key=("port_id",))


async def update_check(tx: Transaction, check: VmCheck) -> None:
    """Store an answer, or that it is over."""
    await tx.execute(update(checks).where(checks.c.port_id == check.port_id).values(record=check.model_dump_json()))


async def load_check(tx: Transaction, port_id: UUID) -> VmCheck | None:
    """What was asked about a port's VM."""
    row = (await tx.execute(select(checks.c.record).where(checks.c.port_id == port_id))).first()
    return VmCheck.model_validate_json(row.record) if row else None


async def save(tx: Transaction, reservation: Reservation) -> None:
    """Store a reservation."""
    values = {
        "port_id": reservation.port_id,
        "phase": reservation.phase.value,
        "updated_at": reservation.updated_at,
        "record": reservation.model_dump_json(),
    }
    await tx.upsert(reservations, values, key=("port_id",))


async def load(tx: Transaction, port_id: UUID) -> Reservation | None:
    """One port's reservation."""
    row = (await tx.execute(select(reservations.c.record).where(reservations.c.port_id == port_id))).first()
    return Reservation.model_validate_json(row.record) if row else None


async def in_phases(tx: Transaction, phases: frozenset[Phase]) -> list[Reservation]:
    """All reservations in these phases, by port."""
    wanted = [phase.value for phase in phases]
    statement = select(reservations.c.record).where(reservations.c.phase.in_(wanted)).order_by(reservations.c.port_id)
    return [Reservation.model_validate_json(row.record) for row in await tx.execute(statement)]


async def forget(tx: Transaction, *, ended_before: datetime, quotes_before: datetime) -> None:
    """Drop what is over: expired quotes, and records of reservations that hold nothing any more."""
    holding = [phase.value for phase in HOLDS_CAPACITY]
    await tx.execute(
        delete(reservations).where(reservations.c.phase.not_in(holding), reservations.c.updated_at < ended_before)
    )
    await tx.execute(delete(nodes).where(nodes.c.said_at < ended_before))
    await tx.execute(delete(quotes).where(quotes.c.valid_until < quotes_before))
    await tx.execute(delete(checks).where(checks.c.until < quotes_before - timedelta(days=1)))


async def figures(store: Store) -> tuple[int, int]:
    """For metrics: reservations that hold capacity, and ports that a node has been told of and that are not over."""
    holding = [phase.value for phase in HOLDS_CAPACITY]
    on_node = [Phase.OPEN.value, Phase.HERE.value]
    count = select(func.count()).select_from(reservations)
    async with store.reading() as connection:
        held = await connection.scalar(count.where(reservations.c.phase.in_(holding)))
        active = await connection.scalar(count.where(reservations.c.phase.in_(on_node)))
        return int(held or 0), int(active or 0)
