"""What ports have changed in this host's network: one small file per port and side, written before the change.

A record lives longer than its transfer: at the recipient as long as the VM is here, at the donor until the recipient
needs no help any more. A damaged file is kept aside and named.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.node_agent.network.plan import Going, donor_wants, recipient_wants
from services.node_agent.network.steps import Device, Step
from services.node_agent.state.files import write_atomically
from shared.messages.network import MacAddress, NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side


class NetworkRecord(BaseModel):
    """One port's changes at this side. `steps` are in the order of their making; each may or may not be made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: Side
    agreement: ServiceChangeAgreement
    steps: tuple[Step, ...] = ()
    ahead: tuple[Step, ...] = Field(
        default=(), description="What the switchover will make, so that nothing is written in the middle of it."
    )
    extension: bool = Field(default=False, description="The extension is to be open.")
    taps: dict[MacAddress, Device] = Field(default_factory=dict, description="Devices of the guest's cards here.")
    paused: bool = Field(default=False, description="Donor: the guest stands still, and may run elsewhere next.")
    there: bool = Field(default=False, description="The VM is the recipient's, and runs there.")
    announced: bool = Field(default=False, description="Recipient: packets come by its own uplink.")

    closed: bool = Field(default=False, description="The donor's help has ended.")
    closed_told: bool = Field(default=False, description="The broker has heard of that.")
    carrying_told: bool = Field(default=False, description="The broker has heard that what the move needs is made.")
    retired: bool = Field(default=False, description="A later port of the VM has taken back what this one did.")
    going_since: datetime | None = Field(
        default=None, description="Recipient: since then the VM is announced elsewhere, by a later port."
    )
    going: Going | None = Field(default=None, description="Recipient: how far it has gone then.")
    undone: bool = Field(default=False, description="The port has failed, or is taken back: nothing is wanted.")

    @property
    def port_id(self) -> UUID:
        """Of the port."""
        return self.agreement.port_id

    @property
    def vm_uuid(self) -> UUID:
        """Of the VM."""
        return self.agreement.vm_uuid

    @property
    def wanted(self) -> tuple[Step, ...]:
        """What is to be made now."""
        if self.undone:
            return ()
        if self.side is Side.INBOUND:
            return recipient_wants(
                self.plan,
                self.port_id,
                arrived=self.there,
                closed=self.closed,
                going=self.going,
                taps=self.taps.values(),
            )
        return donor_wants(
            self.plan,
            self.port_id,
            paused=self.paused,
            away=self.there,
            helps=not self.closed,
            taps=self.taps,
        )

    @property
    def of_switchover(self) -> tuple[Step, ...]:
        """Donor: what is to be made as soon as the guest stands still."""
        if self.side is Side.INBOUND:
            return ()
        return self.model_copy(update={"paused": True}).wanted

    @property
    def known(self) -> tuple[Step, ...]:
        """All that may be made, in the order of its making."""
        return (*self.steps, *(step for step in self.ahead if step not in self.steps))

    @property
    def is_over(self) -> bool:
        """Nothing is wanted any more; at the donor: nothing here helps the VM, and nothing needs to."""
        return self.undone or (self.side is Side.OUTBOUND and self.closed and not self.wanted)

    @property
    def plan(self) -> NetworkPlan:
        """What was agreed. There is no record of a port without."""
        if self.agreement.network is None:
            raise ValueError(f"port {self.port_id} has no plan for its network")
        return self.agreement.network


class NetworkJournal:
    """The directory of these files. Made when the first one is written. Threads may write at the same time. Who writes
    them all reads them once, by `all`, and has them in memory then.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._writing = threading.RLock()
        self._known: dict[tuple[UUID, Side], NetworkRecord] | None = None

    def store(self, record: NetworkRecord) -> None:
        """Write a record; on return it survives a power cut. Raises OSError."""
        with self._writing:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path(record.port_id, record.side), record.model_dump_json().encode())
            if self._known is not None:
                self._known = {**self._known, (record.port_id, record.side): record}

    def note(self, port_id: UUID, side: Side, **news: object) -> NetworkRecord | None:
        """Store what is so now; None where there is no record. Raises OSError."""
        with self._writing:
            record = self.get(port_id, side)
            if record is None or all(getattr(record, name) == value for name, value in news.items()):
                return record
            changed = record.model_copy(update=dict(news))
            self.store(changed)
        return changed

    def store_steps(self, record: NetworkRecord, steps: tuple[Step, ...]) -> None:
        """Store a record's steps; what else is so may have been noted since it was read. Raises OSError."""
        with self._writing:
            current = self.get(record.port_id, record.side)
            if current is None or current.steps != steps:
                self.store((current or record).model_copy(update={"steps": steps}))

    def get(self, port_id: UUID, side: Side) -> NetworkRecord | None:
        """One side's record; None where there is none or it is damaged (`all` sets that one aside). Raises OSError."""
        if self._known is not None:
            return self._known.get((port_id, side))
        try:
            return NetworkRecord.model_validate_json(self._path(port_id, side).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def remove(self, port_id: UUID, side: Side) -> None:
        """Forget a port's changes: they are undone."""
        with self._writing:
            self._path(port_id, side).unlink(missing_ok=True)
            if self._known is not None:
                self._known = {key: each for key, each in self._known.items() if key != (port_id, side)}

    def all(self) -> tuple[tuple[NetworkRecord, ...], tuple[str, ...]]:
        """All records as they are on disk, and the names of damaged files, which are set aside. Raises OSError."""
        records, damaged = [], []
        with self._writing:
            for path in sorted(self.directory.glob("*.json")):
                try:
                    records.append(NetworkRecord.model_validate_json(path.read_bytes()))
                except ValidationError:
                    aside = path.with_suffix(".damaged")
                    path.rename(aside)
                    damaged.append(aside.name)
            self._known = {(record.port_id, record.side): record for record in records}
        return tuple(records), tuple(damaged)

    def readable(self) -> tuple[NetworkRecord, ...]:
        """All records that can be read; nothing is set aside. Raises OSError."""
        if self._known is not None:
            return tuple(self._known.values())
        found = []
        for path in sorted(self.directory.glob("*.json")):
            with suppress(ValidationError, FileNotFoundError):
                found.append(NetworkRecord.model_validate_json(path.read_bytes()))
        return tuple(found)

    def of_vm(self, vm_uuid: UUID) -> tuple[NetworkRecord, ...]:
        """Those of one VM that can be read. Raises OSError."""
        return tuple(record for record in self.readable() if record.vm_uuid == vm_uuid)

    def _path(self, port_id: UUID, side: Side) -> Path:
        return self.directory / f"{port_id}-{side.value}.json"
