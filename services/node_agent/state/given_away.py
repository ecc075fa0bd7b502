"""Which VMs this host has given away: one small file per VM, which libvirt's hook reads at every start of a VM.

It is written before another host may run the VM, and outlives this agent and a reboot. It goes only when the ledger
has given the VM back, or when the VM has come here again by a later port. The format is lines of `key=value`, so that
the hook (`hypervisor/qemu_hook.sh`) needs nothing but a shell.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self
from uuid import UUID

from services.node_agent.state.files import write_atomically
from shared.errors import VmportError
from shared.messages.porting import ServiceChangeAgreement

ARRIVING = ".arriving"
"""Suffix of the mark that lets a VM in that was given away and now comes back; the hook knows it, too."""


@dataclass(frozen=True, slots=True)
class GivenAwayVm:
    """By which port a VM left this host, to whom, since when (ISO 8601) and why. `epoch` is the recipient's."""

    vm_uuid: UUID
    port_id: UUID
    epoch: int
    recipient: str
    recipient_node: str
    since: str
    reason: str

    @classmethod
    def by(cls, agreement: ServiceChangeAgreement, *, since: str, reason: str) -> Self:
        """As this agreement gives it away."""
        return cls(
            vm_uuid=agreement.vm_uuid,
            port_id=agreement.port_id,
            epoch=agreement.epoch,
            recipient=agreement.recipient,
            recipient_node=agreement.recipient_node,
            since=since,
            reason=reason,
        )

    def to_bytes(self) -> bytes:
        """The file."""
        return "".join(f"{key}={value}\n" for key, value in asdict(self).items()).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a file. Raises ValueError, KeyError where it is damaged."""
        pairs = (line.partition("=") for line in content.decode().splitlines())
        found = {key: value for key, _, value in pairs}
        facts = {field.name: found[field.name] for field in fields(cls)}
        return cls(
            vm_uuid=UUID(facts.pop("vm_uuid")),
            port_id=UUID(facts.pop("port_id")),
            epoch=int(facts.pop("epoch")),
            **facts,
        )


class GivenAwayDamaged(VmportError, OSError):
    """A file that is there and cannot be read: the VM counts as given away, by whom is not known."""

    code = "given_away_damaged"


class GivenAway:
    """The directory of these files. Made when the first one is written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def store(self, vm: GivenAwayVm) -> None:
        """Write a VM's file; on return it survives a power cut. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._path(vm.vm_uuid), vm.to_bytes())

    def get(self, vm_uuid: UUID) -> GivenAwayVm | None:
        """By which port a VM left; None where it did not. Raises `GivenAwayDamaged`, OSError."""
        path = self._path(vm_uuid)
        try:
            return GivenAwayVm.from_bytes(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            raise GivenAwayDamaged(f"{path} is damaged: {error}") from error

    def all(self) -> tuple[GivenAwayVm, ...]:
        """All VMs that left, but those whose file is damaged. Raises OSError."""
        found = []
        for path in sorted(self.directory.glob("*")):
            with suppress(ValueError, GivenAwayDamaged):
                vm = self.get(UUID(path.name))
                found += [vm] if vm is not None else []
        return tuple(found)

    def given_by(self, vm_uuid: UUID, port_id: UUID) -> bool:
        """Whether it was this port by which the VM left. A damaged file proves nothing."""
        try:
            vm = self.get(vm_uuid)
        except GivenAwayDamaged:
            return False
        return vm is not None and vm.port_id == port_id

    def why_not(self, vm_uuid: UUID, epoch: int) -> str | None:
        """Why the VM cannot come here by a port of this epoch: a later one took it away. Raises OSError."""
        vm = self.get(vm_uuid)
        if vm is None or vm.epoch < epoch:
            return None
        return f"port {vm.port_id} took VM {vm_uuid} away from here with epoch {vm.epoch}, which is not before {epoch}"

    def take_back(self, vm_uuid: UUID, port_id: UUID) -> None:
        """The ledger gave the VM back to this host: remove its file, if it was this port that wrote it."""
        if self.given_by(vm_uuid, port_id):
            self._path(vm_uuid).unlink(missing_ok=True)

    def has_returned(self, vm_uuid: UUID, epoch: int) -> None:
        """The VM came here again by the port of this epoch: remove the file of every earlier one."""
        try:
            vm = self.get(vm_uuid)
        except GivenAwayDamaged:
            vm = None  # whatever it said, it was said before this
        if vm is None or vm.epoch < epoch:
            self._path(vm_uuid).unlink(missing_ok=True)

    @contextmanager
    def admitted(self, vm_uuid: UUID) -> Iterator[None]:
        """Let a VM in that comes back by a port, meanwhile. Its file stays: the port may still fail. Raises OSError."""
        mark = self._mark(vm_uuid)
        if self._path(vm_uuid).exists():
            mark.touch(mode=0o600)
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def dismiss_all(self) -> None:
        """At the agent's start: no port arrives, for the sockets of the former process are gone."""
        for mark in self.directory.glob(f"*{ARRIVING}"):
            mark.unlink(missing_ok=True)

    def _path(self, vm_uuid: UUID) -> Path:
        return self.directory / str(vm_uuid)

    def _mark(self, vm_uuid: UUID) -> Path:
        return self.directory / f"{vm_uuid}{ARRIVING}"
