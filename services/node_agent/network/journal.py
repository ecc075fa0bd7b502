"""What ports have changed in this host's network: one small file per port and side, written before the change.

A record lives longer than its transfer: at the recipient as long as the VM is here, at the donor until the recipient
needs no help any more. A damaged file is kept aside and named.
"""

from __future__ import annotations

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
    extension: bool = Field(default=False, description="The extension is to be open.")
    taps: dict[MacAddress, Device] = Field(default_factory=dict, description="Donor: devices of the guest's cards.")
    paused: bool = Field(default=False, description="Donor: the guest stands still, and may run elsewhere next.")
    there: bool = Field(default=False, description="The VM is the recipient's, and runs there.")
    announced: bool = Field(default=False, description="Recipient: packets come by its own uplink.")

    closed: bool = Field(default=False, description="The donor's help has ended.")
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
    """The directory of these files. Made when the first one is written. Who writes them all reads them once, by `all`,
    and has them in memory then.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known: dict[tuple[UUID, Side], NetworkRecord] | None = None

    def store(self, record: NetworkRecord) -> None:
        """Write a record; on return it survives a power cut. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._path(record.port_id, record.side), record.model_dump_json().encode())
        if self._known is not None:
            self._known[record.port_id, record.side] = record

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
        self._path(port_id, side).unlink(missing_ok=True)
        if self._known is not None:
            self._known.pop((port_id, side), None)

    def all(self) -> tuple[tuple[NetworkRecord, ...], tuple[str, ...]]:
        """All records as they are on disk, and the names of damaged files, which are set aside. Raises OSError."""
        records, damaged = [], []
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

    def _path(self, port_id: UUID, side: Side) -> Path:
        return self.directory / f"{port_id}-{side.value}.json"
