"""The node agent's memory across its own death: one small file per transfer, written before what it
describes happens. A transfer is this node's side of one port.

What an attempt creates (disk, directory, domain) is recorded before it is created, so that whoever starts next can
remove exactly that and nothing else. Files are replaced atomically and synced; a damaged one is kept aside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from services.node_agent.state.files import write_atomically
from services.node_agent.state.given_away import GivenAway
from services.node_agent.state.guest_ends import GuestEnds
from shared.messages.base import MESSAGE_TYPES, PortMessage
from shared.messages.porting import DisksErased, ServiceChangeAgreement, Side


class Phase(StrEnum):
    """How far a transfer is, in the order of a port's life."""

    PREPARING = "preparing"
    OPEN = "open"
    TRANSFERRING = "transferring"
    POST_COPY = "post_copy"
    """Donor: post-copy is wanted, and the broker may commit: only the ledger lets the guest run here again."""
    SWITCHOVER_ASKED = "switchover_asked"
    """Recipient: the broker was asked. The guest has never run here."""
    FINISH_PASSED = "finish_passed"
    """Donor: Finish goes to the recipient. Recipient: the broker has granted, and Finish goes to libvirt: the guest may
    have run here."""
    RETURNING = "returning"
    """Donor: the ledger says that the guest is this host's; it is to run again."""
    DONE = "done"
    """Donor: the guest has left. Recipient: the guest runs here."""
    KEPT = "kept"
    """Recipient: granted, and proven not to run here. Everything stays until the broker's AbortTransfer."""
    FAILED = "failed"
    QUARANTINED = "quarantined"
    """Donor: undefined; the disks wait for their erasure."""


_COMMITTED = {
    Side.OUTBOUND: frozenset({Phase.DONE, Phase.QUARANTINED}),
    Side.INBOUND: frozenset({Phase.FINISH_PASSED, Phase.DONE, Phase.KEPT}),
}
"""Phases that are entered only after the broker has committed the agreement's epoch."""


class Kind(StrEnum):
    """What an attempt creates."""

    DISK = "disk"
    NVRAM = "nvram"
    """The UEFI variables' file; libvirt makes it."""
    MEMORY = "memory"
    """A file with memory of the guest, such as a memory module's."""
    TPM = "tpm"
    """The folder of the TPM's state, by the VM's UUID; libvirt makes it."""
    SECRET = "secret"  # noqa: S105  # a kind of thing, no password
    """A secret of libvirt's, by its UUID; its value is never written here."""
    DIRECTORY = "directory"
    DOMAIN = "domain"


class Made(BaseModel):
    """One thing that this attempt created, or was about to create. `id` is a path, or a domain's or secret's UUID."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    id: str


class LastWord(BaseModel):
    """A transfer's last message: sent once through the outbox, and again when somebody asks again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    body: str
    told: bool = False

    @classmethod
    def of(cls, message: PortMessage) -> LastWord:
        """Keep a message."""
        return cls(type=type(message).__name__, body=message.model_dump_json())

    @property
    def message(self) -> PortMessage:
        """The message. Raises KeyError or ValidationError where another release wrote it."""
        message = MESSAGE_TYPES[self.type].model_validate_json(self.body)
        assert isinstance(message, PortMessage), "only messages about a port are kept"  # noqa: S101  # by `of`
        return message


class PortRecord(BaseModel):
    """All that a transfer must remember."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: Side
    agreement: ServiceChangeAgreement
    phase: Phase = Phase.PREPARING
    made: tuple[Made, ...] = ()
    disks: tuple[str, ...] = ()
    """Donor: the VM's images on this host, as they were when it left."""
    read_only_disks: tuple[str, ...] = ()
    """Donor: files of its read-only disks and inserted media. They are the provider's, not the VM's own."""
    state_folders: tuple[str, ...] = ()
    """Donor: folders with more of the VM's state on this host: its TPM's."""
    secrets: tuple[UUID, ...] = ()
    """Donor: secrets of this host that open the VM's encrypted disks and TPM; they go when the disks are erased."""
    was_running: bool = True
    """Donor: whether the guest ran before the migration paused it; an operator may have suspended it."""
    quarantined_disks: tuple[str, ...] = ()
    quarantined_folders: tuple[str, ...] = ()
    left_disks: tuple[str, ...] = ()
    """Donor: one sentence for each image that was not put into quarantine, because it is not the VM's alone."""
    keep_until: datetime | None = None
    """Donor: a rule has the disks kept at least until then."""
    autostart: bool = False
    """Donor: the VM was started with its host, and is not while it leaves; if it stays, it is again."""
    boot_id: str = ""
    """Which boot of the host it was: at the donor when autostart was taken off, at the recipient when Finish passed."""
    may_have_run: bool = False
    """Recipient: the guest was seen to have run here while libvirt was away, or to have ended without it."""
    told_epoch: int = 0
    """Donor: the newest epoch that the broker has committed, as it was told."""
    last_word: LastWord | None = None

    @property
    def port_id(self) -> UUID:
        """The port."""
        return self.agreement.port_id

    @property
    def heard_epoch(self) -> int:
        """The newest epoch that this side knows to be committed; 0 where it knows of none."""
        known = self.agreement.epoch if self.phase in _COMMITTED[self.side] else 0
        return max(known, self.told_epoch)

    def is_outdated(self, epoch: int | None) -> bool:
        """Whether a message of this epoch is older than what this side has heard: it comes late, or from a ledger that
        was restored. A broker of an earlier release names no epoch."""
        return epoch is not None and epoch < self.heard_epoch

    @property
    def is_erased(self) -> bool:
        """Whether the quarantine is over; the record is kept for a while, to answer the same when asked again."""
        return self.last_word is not None and self.last_word.type == DisksErased.__name__


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A file that could not be read and was set aside. `vm_uuid` and `epoch` are what could still be made out of it."""

    name: str
    port_id: UUID
    side: Side
    vm_uuid: UUID | None
    epoch: int


class Journal:
    """A directory of records."""

    def __init__(self, directory: Path) -> None:
        """`directory` is for the transfers; beside it are the files about VMs that were given away."""
        self._directory = directory
        self.given_away = GivenAway(directory.parent / "given-away")
        self.guest_ends = GuestEnds(self.given_away.directory)

    def open(self) -> Self:
        """Make the directory; raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def load(self) -> tuple[list[PortRecord], list[str]]:
        """Return all records, and the names of files that could not be read; these are set aside, not lost."""
        records, damaged = [], []
        for path in sorted(self._directory.glob("*.json")):
            try:
                records.append(PortRecord.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError):
                path.rename(path.with_suffix(".damaged"))
                damaged.append(path.name)
        return records, damaged

    def damaged(self, port_id: UUID | None = None, side: Side | None = None) -> list[DamagedRecord]:
        """Return what was set aside, now or by a former process; all of it, or one transfer's."""
        pattern = f"{port_id or '*'}.{side or '*'}.damaged"
        found = (_damaged_record(path) for path in sorted(self._directory.glob(pattern)))
        return [record for record in found if record is not None]

    def get(self, port_id: UUID, side: Side) -> PortRecord | None:
        """Return one transfer's record; None where there is none, or where it is damaged and set aside."""
        path = self._path(port_id, side)
        try:
            return PortRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            path.rename(path.with_suffix(".damaged"))
            return None

    def store(self, record: PortRecord) -> None:
        """Store a record; on return it survives a power cut. Raises OSError."""
        write_atomically(self._path(record.port_id, record.side), record.model_dump_json().encode())

    def remove(self, port_id: UUID, side: Side) -> None:
        """Delete a transfer's record; nothing happens where there is none."""
        self._path(port_id, side).unlink(missing_ok=True)

    def remove_erased(self, before_s: float) -> None:
        """Delete records of ports whose disks were erased before this time, in seconds since the epoch."""
        for record in self.load()[0]:
            path = self._path(record.port_id, record.side)
            if record.is_erased and path.stat().st_mtime < before_s:
                path.unlink()

    def quarantined_disks(self, vm_uuid: UUID) -> list[Path]:
        """Disks of a VM that has left this host and that wait here for their erasure."""
        records, _ = self.load()
        return [
            Path(disk)
            for record in records
            if record.agreement.vm_uuid == vm_uuid
            for disk in record.quarantined_disks
            if Path(disk).exists()
        ]

    def _path(self, port_id: UUID, side: Side) -> Path:
        return self._directory / f"{port_id}.{side}.json"


def _damaged_record(path: Path) -> DamagedRecord | None:
    port_id, _, side = path.stem.partition(".")
    try:
        content = path.read_bytes()
        vm = re.search(rb'"vm_uuid": ?"([0-9a-f-]{36})"', content)
        epoch = re.search(rb'"epoch": ?([0-9]+)', content)
        vm_uuid = UUID(vm[1].decode()) if vm else None
        return DamagedRecord(path.name, UUID(port_id), Side(side), vm_uuid, int(epoch[1]) if epoch else 1)
    except (OSError, ValueError):
        return None


class TransferJournal:
    """One transfer's record, as the transfer itself uses it."""

    def __init__(self, journal: Journal, record: PortRecord) -> None:
        self._journal = journal
        self.record = record

    @property
    def given_away(self) -> GivenAway:
        """The files about VMs that this host gave away."""
        return self._journal.given_away

    @property
    def ended_by_itself(self) -> bool:
        """Recipient: whether the guest has ended since Finish was passed, and libvirt did not end it."""
        return self._journal.guest_ends.ended_by_itself(self.record.agreement.vm_uuid)

    def enter(self, phase: Phase) -> None:
        """Store a new phase."""
        self._store(phase=phase)

    def pass_finish(self, boot_id: str) -> None:
        """Recipient: store that Finish is passed, and in which boot of the host. From now on it is written down why the
        guest ends. Raises OSError."""
        self._journal.guest_ends.watch(self.record.agreement.vm_uuid)
        self._store(phase=Phase.FINISH_PASSED, boot_id=boot_id)

    def note_ran(self) -> None:
        """Recipient: store that the guest may have run, whatever is found of it later."""
        self._store(may_have_run=True)

    def remember_epoch(self, epoch: int) -> None:
        """Donor: store an epoch that the broker has committed, if it is news."""
        if epoch > self.record.told_epoch:
            self._store(told_epoch=epoch)

    def will_create(self, kind: Kind, name: str) -> None:
        """Store what is about to be created; create it afterwards."""
        made = Made(kind=kind, id=name)
        if made not in self.record.made:
            self._store(made=(*self.record.made, made))

    def discard(self, *gone: Made) -> None:
        """Store that these are gone."""
        self._store(made=tuple(thing for thing in self.record.made if thing not in gone))

    def remember_vm(
        self, paths: tuple[str, ...], state_folders: tuple[str, ...] = (), *, read_only: tuple[str, ...] = ()
    ) -> None:
        """Store where the images and other state lie of a VM that runs here, and is to run on if it stays."""
        self._store(disks=paths, state_folders=state_folders, read_only_disks=read_only, was_running=True)

    def remember_secrets(self, uuids: tuple[UUID, ...]) -> None:
        """Store which of this host's secrets the VM has."""
        if uuids:
            self._store(secrets=uuids)

    def remember_run_state(self, *, was_running: bool) -> None:
        """Store whether the guest is to run if it stays at the donor."""
        if was_running is not self.record.was_running:
            self._store(was_running=was_running)

    def conclude(self, phase: Phase, message: PortMessage) -> None:
        """Store the end and its message in one write; a message that was sent already stays so."""
        last, known = LastWord.of(message), self.record.last_word
        if known is not None and (known.type, known.body) == (last.type, last.body):
            last = known
        self._store(phase=phase, last_word=last)
        if self.record.side is Side.INBOUND:
            self._journal.guest_ends.forget(self.record.agreement.vm_uuid)

    def mark_last_word_sent(self) -> None:
        """Store that the last message is in the outbox."""
        if self.record.last_word is not None:
            self._store(last_word=self.record.last_word.model_copy(update={"told": True}))

    def remember_autostart(self, *, on: bool, boot_id: str = "") -> None:
        """Store whether the VM is to be started with its host again, if it stays."""
        if (self.record.autostart, self.record.boot_id) != (on, boot_id):
            self._store(autostart=on, boot_id=boot_id)

    def quarantine(
        self,
        disks: tuple[str, ...],
        left: tuple[str, ...] = (),
        folders: tuple[str, ...] = (),
        *,
        keep_until: datetime | None = None,
    ) -> None:
        """Store which disks and folders wait for erasure, until when they must, and which disks are left."""
        self._store(
            phase=Phase.QUARANTINED,
            quarantined_disks=disks,
            quarantined_folders=folders,
            left_disks=left,
            keep_until=keep_until,
        )

    def erased(self, message: DisksErased) -> None:
        """Store that the quarantine is over, and the answer for whoever asks again."""
        self._store(quarantined_disks=(), quarantined_folders=(), last_word=LastWord.of(message))

    def _store(self, **changes: object) -> None:
        # Stored first: what this process believes must never be ahead of what its successor will read.
        record = self.record.model_copy(update=changes)
        self._journal.store(record)
        self.record = record
