"""What this host has taken over of other hosts' connections: inserted, and removed again if the VM does not come.

Which entries are inserted is on disk before they are, one file per port, a JSON list a line. So what a process leaves
behind that dies is removed by the next one; entries that were here before are none of the port's and stay.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from services.node_agent.network.tracking.exchange import Answer
from services.node_agent.network.tracking.table import ConnectionTable, Inserted, TrackingError
from services.node_agent.network.tracking.values import (
    MAX_CONNECTIONS,
    Changes,
    ConnectionKey,
    TrackedConnection,
    TrackedFound,
    of_vm,
)
from shared.logs import get_logger

log = get_logger(__name__)

SUFFIX = ".connections"
_KEY_PARTS = len(ConnectionKey._fields)


class TakenConnections:
    """Of all ports of this host, `most` of each."""

    def __init__(self, directory: Path, table: ConnectionTable | None = None, *, most: int = MAX_CONNECTIONS) -> None:
        self._directory = directory
        self._most = most
        self._counts: dict[UUID, int] = {}
        self._table = table or ConnectionTable()
        self._locks: dict[UUID, asyncio.Lock] = {}
        self._kept = set[UUID]()

    async def read(self, addresses: Iterable[str]) -> TrackedFound:
        """Donor: the connections of these addresses. Raises `TrackingError`."""
        return await self._table.read(addresses)

    async def take(self, port_id: UUID, addresses: frozenset[str], changed: Changes) -> Answer:
        """Recipient: insert what is new, remove what is gone; only connections of these addresses."""
        # Not cancelled half way: who undoes it waits for its end.
        return await asyncio.shield(self._take(port_id, addresses, changed))

    async def _take(self, port_id: UUID, addresses: frozenset[str], changed: Changes) -> Answer:
        wanted = of_vm(changed.connections, addresses)
        try:
            async with self._locks.setdefault(port_id, asyncio.Lock()):
                there = {each.key for each in (await self._table.read(addresses)).connections} if wanted else set()
                wanted = await self._bounded(port_id, wanted, there)
                new = [each.key for each in wanted if each.key not in there]
                if port_id not in self._kept:
                    await asyncio.to_thread(self._remember, port_id, new)
                inserted = await self._table.insert(wanted) if wanted else Inserted()
                ours = set(await asyncio.to_thread(self._remembered, port_id))
                await self._table.delete([key for key in changed.gone if key in ours])
        except (TrackingError, OSError) as error:
            log.warning("connections not taken", port_id=str(port_id), error=str(error))
            return Answer(problem=str(error)[:500])
        self._counts[port_id] += len(inserted.new)
        others = len(changed.connections) - len(wanted)
        return Answer(new=len(inserted.new), there=inserted.there, refused=inserted.refused + others)

    async def _bounded(
        self, port_id: UUID, wanted: tuple[TrackedConnection, ...], there: set[ConnectionKey]
    ) -> tuple[TrackedConnection, ...]:
        """So many that the port has inserted no more than it may, in all rounds together."""
        if port_id not in self._counts:
            self._counts[port_id] = len(await asyncio.to_thread(self._remembered, port_id))
        left = max(0, self._most - self._counts[port_id])
        known = tuple(each for each in wanted if each.key in there)
        return (*known, *[each for each in wanted if each.key not in there][:left])

    def keep(self, port_id: UUID) -> None:
        """The VM is here: its connections are the kernel's own affair from now on. Raises OSError."""
        self._kept.add(port_id)
        self._path(port_id).unlink(missing_ok=True)

    async def undo(self, port_id: UUID) -> tuple[str, ...]:
        """The VM does not come: remove what was inserted for it. Returns what remains, in words."""
        async with self._locks.setdefault(port_id, asyncio.Lock()):
            try:
                await self._table.delete(self._remembered(port_id))
                self._path(port_id).unlink(missing_ok=True)
                self._counts.pop(port_id, None)
            except (TrackingError, OSError) as error:
                log.warning("connections not removed", port_id=str(port_id), error=str(error))
                return (f"tracked connections of port {port_id}: {error}",)
        return ()

    def _remember(self, port_id: UUID, keys: Iterable[ConnectionKey]) -> None:
        """On return they survive a power cut."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = "".join(json.dumps(key) + "\n" for key in keys)
        descriptor = os.open(self._path(port_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _remembered(self, port_id: UUID) -> list[ConnectionKey]:
        try:
            lines = self._path(port_id).read_text("ascii").splitlines()
        except FileNotFoundError:
            return []
        return [key for line in lines if (key := _key(line)) is not None]

    def _path(self, port_id: UUID) -> Path:
        return self._directory / f"{port_id}{SUFFIX}"


def _key(line: str) -> ConnectionKey | None:
    """None for a line that was torn by a crash: what was to follow it is not inserted."""
    try:
        parts = json.loads(line)
    except ValueError:
        return None
    return ConnectionKey(*parts) if isinstance(parts, list) and len(parts) == _KEY_PARTS else None
