"""What an outbound transfer measured, once the guest has left."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from uuid import UUID

from shared.messages.porting import OutboundFinished


@dataclass(frozen=True, slots=True)
class OutboundResult:
    """The guest has left. Bytes are raw for memory and disk, compressed for the wire."""

    downtime_ms: int
    outage_ms: int | None
    hypervisor_downtime_ms: int | None
    total_ms: int
    memory_bytes: int
    disk_bytes: int
    wire_bytes: int
    seeded_bytes: int
    post_copy: bool

    def message(self, port_id: UUID) -> OutboundFinished:
        """As the broker understands it."""
        return OutboundFinished(port_id=port_id, **asdict(self))
