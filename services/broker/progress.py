"""Keeps the newest progress of each port and passes it on to its tenant. It is no step, and no line of the record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from services.broker import ledger
from shared.bus import Reject
from shared.messages import Envelope
from shared.messages.service_change import PortPhase, PortProgressed, TransferPhase
from shared.store import Store

INTERVAL_S = 1.0
"""Progress that says nothing new is passed on at most this often."""

LIFETIME = timedelta(seconds=30)
"""Progress that a tenant did not fetch for so long is worth nothing."""

_MOVING = frozenset(
    {PortPhase.STARTING, PortPhase.TRANSFERRING, PortPhase.SWITCHING, PortPhase.RESOLVING, PortPhase.FINISHING}
)


@dataclass(slots=True)
class _Shown:
    """The progress of a port that was last stored and passed on."""

    percent: int
    phase: TransferPhase
    at_s: float


class ProgressRelay:
    """One per broker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shown: dict[UUID, _Shown] = {}

    def forget(self, port_id: UUID) -> None:
        """The port has ended."""
        self._shown.pop(port_id, None)

    async def progressed(self, envelope: Envelope[PortProgressed]) -> None:
        """The donor's node says how far a transfer is; passed on once a second, or when its percent has changed."""
        progress = envelope.data
        shown = self._shown.get(progress.port_id)
        now_s = time.monotonic()
        is_same = shown is not None and (shown.percent, shown.phase) == (progress.percent, progress.phase)
        if is_same and shown is not None and now_s - shown.at_s < INTERVAL_S:
            return
        async with self._store.transaction() as tx:
            if not await tx.first_time(envelope):
                return
            stored = await ledger.look(tx.connection, progress.port_id)
            if stored is None:
                raise Reject("unknown_port", f"there is no port {progress.port_id}")
            if envelope.sender != stored.state.donor_node:
                raise Reject("not_a_party", f"{envelope.sender} is not the donor's node of port {progress.port_id}")
            if stored.state.phase not in _MOVING or not _is_newer(progress, stored.progress):
                return
            await ledger.save_progress(tx, progress)
            await tx.send(
                stored.state.tenant_party,
                progress,
                cause=envelope,
                correlation_id=progress.port_id,
                deadline=tx.now + LIFETIME,
            )
        self._shown[progress.port_id] = _Shown(progress.percent, progress.phase, now_s)


def _is_newer(progress: PortProgressed, known: PortProgressed | None) -> bool:
    """Whether progress does not run backwards. The transfer never goes back to seeding, but starts at zero after it."""
    if known is None:
        return True
    seeding, was_seeding = (each.phase is TransferPhase.SEEDING for each in (progress, known))
    return was_seeding if seeding != was_seeding else progress.percent >= known.percent
