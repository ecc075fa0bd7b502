"""Where packets for VMs of a neutral prefix are sent: what a gateway of that prefix knows, as files, and in the kernel.

The prefix is announced all the time, by every gateway. Which provider serves a VM is told by the broker, with the
epoch of its ledger; an older epoch is refused. So a gateway that hears late, or twice, does no harm.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from services.node_agent.network.maker import StepMaker
from services.node_agent.network.steps import NftTable
from services.node_agent.network.translate import away_tables
from services.node_agent.state.files import write_atomically
from shared.logs import get_logger
from shared.messages.addresses import ServeAddresses
from shared.messages.network import CareOf

log = get_logger(__name__)


class ServedVm(BaseModel):
    """By which port and epoch a VM is served where. `former` is what was before that port, to go back to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vm_uuid: UUID
    port_id: UUID
    epoch: int
    owner: str
    care_of: tuple[CareOf, ...] = ()
    former: tuple[CareOf, ...] = ()

    def after(self, told: ServeAddresses) -> Self:
        """As the broker's word changes it. Without addresses it takes the same port's change back."""
        back = not told.care_of
        if told.port_id == self.port_id:
            care_of, former = (self.former, self.former) if back else (told.care_of, self.former)
        else:
            care_of, former = (self.care_of if back else told.care_of), self.care_of
        changes = {"port_id": told.port_id, "epoch": told.epoch, "owner": told.owner}
        return self.model_copy(update={**changes, "care_of": care_of, "former": former})

    @property
    def tables(self) -> tuple[NftTable, ...]:
        """What the kernel is to have."""
        return away_tables(f"vmport_serve_{self.vm_uuid.hex[:12]}", self.care_of)


class ServedVms:
    """All VMs that this gateway serves."""

    def __init__(self, directory: Path, maker: StepMaker) -> None:
        self._directory = directory
        self._maker = maker
        self._locks: dict[UUID, asyncio.Lock] = {}

    async def serve(self, told: ServeAddresses) -> int:
        """Send the VM's packets where the broker says; returns the epoch by which they are sent now.

        One word about a VM after the other: a commit may be taken back before its rules are made. Raises OSError where
        that cannot be stored, `NetlinkError` or `NftError` where the kernel refuses it.
        """
        async with self._locks.setdefault(told.vm_uuid, asyncio.Lock()):
            return await self._serve(told)

    async def _serve(self, told: ServeAddresses) -> int:
        known = self._get(told.vm_uuid)
        if known is not None and told.epoch < known.epoch:
            log.warning("older word about a VM's place refused", vm=str(told.vm_uuid), epoch=told.epoch)
            return known.epoch
        first = ServedVm(vm_uuid=told.vm_uuid, port_id=told.port_id, epoch=0, owner=told.owner)
        now = (known or first).after(told)
        # The new table goes in before it is stored: a gateway that dies in between hears the broker again.
        await self._maker.make(now.tables)
        if known is not None:
            families = {table.family for table in now.tables}
            await self._maker.undo(table for table in known.tables if table.family not in families)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._directory / f"{told.vm_uuid}.json", now.model_dump_json().encode())
        log.info("serving", vm=str(told.vm_uuid), owner=told.owner, epoch=told.epoch)
        return now.epoch

    async def restore(self) -> tuple[str, ...]:
        """At the start: have it all in the kernel again. Returns names of files that cannot be read."""
        damaged = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                vm = ServedVm.model_validate_json(path.read_bytes())
            except ValidationError:
                damaged.append(path.name)
                continue
            await self._maker.make(vm.tables)
        return tuple(damaged)

    def _get(self, vm_uuid: UUID) -> ServedVm | None:
        """None where the VM is not known, or its file is damaged: then any word of the broker is newer."""
        try:
            return ServedVm.model_validate_json((self._directory / f"{vm_uuid}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
