"""Extensions: the donor's help with a VM's addresses after its port has completed, and what nodes report of addresses.

A row per port, from the port's end on. It is `open` until its time is up, the tenant ends it, the VM is ported on, or a
node says that it has closed its side; then `ending`, while both nodes are told and asked again until each has answered;
then `ended`. Its lanes are removed when both have closed, or with the first question that is repeated: a node that is
gone for good must not keep them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import ledger
from services.broker.ledger import StoredPort
from services.broker.relay_lanes import want
from services.broker.saga import KeepExtension
from services.broker.tables import extensions, port_events
from shared.bus import LaneEnds, Reject
from shared.logs import get_logger, port_bound
from shared.messages import Envelope, Message, PortMessage
from shared.messages.addresses import (
    CloseExtension,
    ExtensionClosed,
    ExtensionShown,
    ExtensionState,
    NetworkReported,
    NetworkState,
)
from shared.messages.service_change import PortPhase
from shared.parties import BROKER, Party
from shared.store import Timer, Transaction

log = get_logger(__name__)

PREFIX = "extension:"
"""Of the keys of extensions' timers."""
FIRST_RETRY = timedelta(seconds=60)
LONGEST_RETRY = timedelta(hours=1)


def timer_key(port_id: UUID) -> str:
    """The key of the timer at which an extension ends, or is asked for its end again."""
    return f"{PREFIX}{port_id}"


# After the port


async def keep(tx: Transaction, port_id: UUID, kept: KeepExtension) -> None:
    """The port has completed: its extension lives on. A node may have closed its side before."""
    closed = await _closed_before(tx.connection, port_id, kept.epoch)
    ends_at = None if kept.ends_after_s is None else tx.now + timedelta(seconds=kept.ends_after_s)
    await tx.execute(
        insert(extensions).values(
            port_id=port_id,
            vm_uuid=kept.vm_uuid,
            epoch=kept.epoch,
            donor_node=str(kept.ends.donor_node),
            recipient_node=str(kept.ends.recipient_node),
            has_lanes=kept.has_lanes,
            state=ExtensionState.OPEN.value,
            since=tx.now,
            ends_at=ends_at,
            reason="",
            donor_closed=str(kept.ends.donor_node) in closed,
            recipient_closed=str(kept.ends.recipient_node) in closed,
            retries=0,
        )
    )
    if closed:
        await _end(tx, port_id, f"closed by {' and '.join(sorted(closed))}")
    elif ends_at is not None:
        await tx.arm(timer_key(port_id), ends_at)


async def ported_on(tx: Transaction, vm_uuid: UUID, by_port: UUID) -> None:
    """Another port of the VM has completed: what earlier ports kept open ends."""
    mine = (extensions.c.vm_uuid == vm_uuid) & (extensions.c.state == ExtensionState.OPEN.value)
    rows = list(await tx.execute(select(extensions.c.port_id).where(mine, extensions.c.port_id != by_port)))
    for row in rows:
        await _end(tx, row.port_id, f"the VM was ported on by port {by_port}")


async def end_asked(tx: Transaction, port_id: UUID, tenant: Party) -> bool:
    """The tenant no longer needs it; False where there is none. One that ends already is left alone."""
    row = await _load(tx, port_id)
    if row is None:
        return False
    if row.state == ExtensionState.OPEN:
        await _end(tx, port_id, f"{tenant} no longer needs it")
    return True


async def time_passed(tx: Transaction, timer: Timer) -> None:
    """Its time is up, or a node has not answered that it closed its side."""
    port_id = UUID(timer.key.removeprefix(PREFIX))
    with port_bound(port_id):
        row = await _load(tx, port_id)
        if row is None or row.state == ExtensionState.ENDED:
            return
        if row.state == ExtensionState.OPEN:
            await _end(tx, port_id, "its time is up")
            return
        retries = row.retries + 1
        await _change(tx, port_id, retries=retries)
        await _ask(tx, row, retries)
        await _close_lanes(tx, row)
        silent = [name for name, done in _sides(row) if not done]
        log.warning("extension not closed yet; asking again", reason=row.reason, nodes=silent)


# What nodes say


async def reported(tx: Transaction, envelope: Envelope[NetworkReported]) -> None:
    """How far a node is with the VM's addresses. Raises `Reject` for one that is no node of the port."""
    report = envelope.data
    stored = await _port_of(tx, envelope, of_gateways=True)
    detail = f"{report.state}: {report.detail}" if report.detail else str(report.state)
    if report.first_answer_ms is not None:
        detail += f"; first answer after {report.first_answer_ms} ms"
    await _record(tx, envelope, stored, detail)
    if report.state is NetworkState.FAILED:
        log.error("network of a port failed", sender=envelope.source, reason=report.detail)
    elif report.state is NetworkState.CLOSED:
        await _side_closed(tx, report.port_id, report.epoch, envelope.source)


async def closed(tx: Transaction, envelope: Envelope[ExtensionClosed]) -> None:
    """A node has closed its side. Raises `Reject` for one that is no node of the port."""
    answer = envelope.data
    stored = await _port_of(tx, envelope)
    left = f"; could not be removed: {', '.join(answer.left_overs)}" if answer.left_overs else ""
    await _record(tx, envelope, stored, f"closed{left}")
    if left:
        log.error("network left behind", sender=envelope.source, left=answer.left_overs)
    await _side_closed(tx, answer.port_id, answer.epoch, envelope.source)


# For questions


async def shown(connection: AsyncConnection, port_id: UUID) -> ExtensionShown | None:
    """A port's extension; None if it has none, or has not completed."""
    row = (await connection.execute(select(extensions).where(extensions.c.port_id == port_id))).one_or_none()
    if row is None:
        return None
    return ExtensionShown(
        state=ExtensionState(row.state),
        since=row.since,
        ends_at=row.ends_at,
        reason=row.reason,
        closed_by=tuple(name for name, done in _sides(row) if done),
    )


async def ages_s(connection: AsyncConnection, now: datetime) -> dict[ExtensionState, tuple[int, float]]:
    """By state, of those that have not ended: how many, and for how many seconds the oldest has been kept."""
    kept_rows, since = func.count().label("kept"), func.min(extensions.c.since).label("since")
    statement = select(extensions.c.state, kept_rows, since).group_by(extensions.c.state)
    rows = await connection.execute(statement.where(extensions.c.state != ExtensionState.ENDED.value))
    return {ExtensionState(row.state): (row.kept, (now - row.since).total_seconds()) for row in rows}


async def reports(connection: AsyncConnection, port_id: UUID, *, limit: int) -> list[tuple[Row[Any], NetworkReported]]:
    """What the port's nodes have reported, oldest first; the newest `limit` of it. Rows have `at` and `sender`."""
    mine = (port_events.c.port_id == port_id) & (port_events.c.type == NetworkReported.__name__)
    statement = select(port_events).where(mine, port_events.c.body.is_not(None)).order_by(port_events.c.id.desc())
    rows = list(await connection.execute(statement.limit(limit)))
    return [(row, NetworkReported.model_validate_json(row.body)) for row in reversed(rows)]


# Inside


async def _load(tx: Transaction, port_id: UUID) -> Row[Any] | None:
    """The row, locked until the transaction ends."""
    statement = select(extensions).where(extensions.c.port_id == port_id).with_for_update()
    return (await tx.execute(statement)).one_or_none()


async def _change(tx: Transaction, port_id: UUID, **values: object) -> None:
    await tx.execute(update(extensions).where(extensions.c.port_id == port_id).values(**values))


def _sides(row: Row[Any]) -> tuple[tuple[str, bool], ...]:
    return ((row.donor_node, row.donor_closed), (row.recipient_node, row.recipient_closed))


async def _end(tx: Transaction, port_id: UUID, reason: str) -> None:
    await _change(tx, port_id, state=ExtensionState.ENDING.value, reason=reason, retries=0)
    await _note(tx, port_id, "ExtensionEnds", reason)
    log.info("extension ends", reason=reason)
    row = await _load(tx, port_id)
    if row is not None:
        await (_finish(tx, row) if row.donor_closed and row.recipient_closed else _ask(tx, row, 0))


async def _ask(tx: Transaction, row: Row[Any], retries: int) -> None:
    """Tell each node that has not closed, and set the time at which it is told again."""
    close = CloseExtension(port_id=row.port_id, epoch=row.epoch, reason=row.reason)
    for name, done in _sides(row):
        if not done:
            await tx.send(Party.parse(name), close, correlation_id=row.port_id)
    await tx.arm(timer_key(row.port_id), tx.now + min(LONGEST_RETRY, FIRST_RETRY * (1 << min(retries, 20))))


async def _side_closed(tx: Transaction, port_id: UUID, epoch: int, node: str) -> None:
    row = await _load(tx, port_id)
    if row is None or row.epoch != epoch or row.state == ExtensionState.ENDED:
        return
    side = "donor_closed" if node == row.donor_node else "recipient_closed"
    if node not in {row.donor_node, row.recipient_node} or getattr(row, side):
        return
    await _change(tx, port_id, **{side: True})
    if row.state == ExtensionState.OPEN:
        await _end(tx, port_id, f"closed by {node}")
    elif all(done or name == node for name, done in _sides(row)):
        await _finish(tx, row)


async def _finish(tx: Transaction, row: Row[Any]) -> None:
    await _change(tx, row.port_id, state=ExtensionState.ENDED.value)
    await tx.disarm(timer_key(row.port_id))
    await _close_lanes(tx, row)
    await _note(tx, row.port_id, "ExtensionEnded", row.reason)


async def _close_lanes(tx: Transaction, row: Row[Any]) -> None:
    if row.has_lanes:
        donor_node, recipient_node = Party.parse(row.donor_node), Party.parse(row.recipient_node)
        await want(tx, LaneEnds(row.port_id, donor_node, recipient_node), "closed")


async def _closed_before(connection: AsyncConnection, port_id: UUID, epoch: int) -> set[str]:
    said = await reports(connection, port_id, limit=1000)
    return {row.sender for row, each in said if each.state is NetworkState.CLOSED and each.epoch == epoch}


async def _port_of(tx: Transaction, envelope: Envelope[Any], *, of_gateways: bool = False) -> StoredPort:
    message = cast("PortMessage", envelope.data)
    stored = await ledger.look(tx.connection, message.port_id)
    if stored is None:
        raise Reject("unknown_port", f"there is no port {message.port_id}")
    state = stored.state
    known = {str(party) for party in (state.donor_node, state.recipient_node) if party is not None}
    if envelope.source not in known | (set(state.gateways) if of_gateways else set()):
        raise Reject("not_a_party", f"{envelope.source} is no node of port {message.port_id}")
    return stored


async def _record(tx: Transaction, envelope: Envelope[Any], stored: StoredPort, detail: str) -> None:
    message = cast("Message", envelope.data)
    await ledger.record(
        tx,
        stored.state.port_id,
        ledger.Event(
            envelope.source,
            type(message).__name__,
            stored.state.phase,
            "handled",
            detail,
            envelope.id,
            message.model_dump_json(),
        ),
    )


async def _note(tx: Transaction, port_id: UUID, kind: str, detail: str) -> None:
    await ledger.record(tx, port_id, ledger.Event(str(BROKER), kind, PortPhase.COMPLETED, "handled", detail))
