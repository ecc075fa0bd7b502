"""What the donor agent keeps of one port, from approval to the erased disks. Pure: the clock is an input.

The quarantine starts when the node says that it disconnected the VM, not when it was asked. A repeated answer does not
start it again. It ends only for a port that completed, and is counted again from then: of a port that has not, the
disks may be the VM's only ones.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.messages.porting import ServiceChangeAgreement
from shared.messages.rule_facts import Told
from shared.messages.vm import IdentityBundle


class Phase(StrEnum):
    """How far a port is at the donor agent."""

    DESCRIBING = "describing"
    REJECTED = "rejected"
    APPROVED = "approved"
    FIXED = "fixed"
    MOVING = "moving"
    LEFT = "left"
    DISCONNECTING = "disconnecting"
    QUARANTINED = "quarantined"
    ERASED = "erased"
    ENDED = "ended"
    INSPECTING = "inspecting"
    INSPECTED = "inspected"
    """These two are no port: a tenant has asked what its VM is, and the node is asked in the same way."""


UNDER_WAY = frozenset({Phase.FIXED, Phase.MOVING, Phase.LEFT, Phase.DISCONNECTING})
"""Counted as ports under way. An approval alone is not: a dry run, or a port without a recipient, never ends here."""

GONE = frozenset({Phase.LEFT, Phase.DISCONNECTING})
"""The VM runs elsewhere, though a node may still list its empty shell."""

OVER = frozenset({Phase.REJECTED, Phase.ERASED, Phase.ENDED, Phase.INSPECTED})
"""Nothing more will happen; the record is kept for a while."""


class DonorPort(BaseModel):
    """What this agent knows about one port."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port_id: UUID
    tenant: str
    vm_uuid: UUID
    node: str
    phase: Phase
    updated_at: datetime
    eject: tuple[str, ...] = ()
    """Drives whose media the tenant leaves behind, as it asked for approval."""
    told: Told = Field(default_factory=dict)
    """What the tenant tells, by the field's name."""
    void: tuple[str, ...] = ()
    """Codes of refusals that the broker has told to be against a rule; they are not used for this port."""
    identity: IdentityBundle | None = None
    agreement: ServiceChangeAgreement | None = None
    quarantined_disks: tuple[str, ...] = ()
    left_disks: tuple[str, ...] = ()
    quarantined_bytes: int = 0
    quarantine_until: datetime | None = None
    completed_at: datetime | None = None
    keep_until: datetime | None = None
    """A rule has the disks kept at least until then, whatever the provider's own quarantine is."""

    def in_phase(self, phase: Phase, now: datetime, **facts: object) -> Self:
        """The same port, one step on."""
        return self.model_copy(update={"phase": phase, "updated_at": now, **facts})

    def disconnected(
        self, disks: tuple[str, ...], now: datetime, quarantine: timedelta, *, left: tuple[str, ...] = ()
    ) -> Self:
        """The node has disconnected the VM; the quarantine clock starts, once. `left` says which disks have none."""
        if self.phase in {Phase.QUARANTINED, Phase.ERASED}:
            return self
        size = sum(disk.virtual_size_bytes for disk in self.identity.vm.disks) if self.identity and disks else 0
        return self.in_phase(
            Phase.QUARANTINED,
            now,
            quarantined_disks=disks,
            left_disks=left,
            quarantined_bytes=size,
            quarantine_until=self._until(now + quarantine),
        )

    def completed(self, now: datetime, quarantine: timedelta) -> Self:
        """The broker says that the port completed; what is in quarantine stays there for the whole time from now."""
        if self.completed_at is not None:
            return self
        until = self._until(now + quarantine) if self.phase is Phase.QUARANTINED else self.quarantine_until
        return self.model_copy(update={"completed_at": now, "quarantine_until": until})

    def _until(self, own: datetime) -> datetime:
        """The longer of the provider's own quarantine and what a rule says."""
        return own if self.keep_until is None else max(own, self.keep_until)

    @property
    def erase_at(self) -> datetime | None:
        """When the disks may be erased; None while they are not in quarantine, or the port has not completed."""
        return self.quarantine_until if self.phase is Phase.QUARANTINED and self.completed_at is not None else None

    def erased(self, now: datetime) -> Self:
        """The node has erased the disks."""
        return self.in_phase(Phase.ERASED, now, quarantined_bytes=0)
