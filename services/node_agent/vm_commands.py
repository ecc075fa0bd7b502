"""The short commands about a VM: describe it, define the arrived one, disconnect the one that left, erase its
disks.

Each may be asked again at any time and then answers the same. Owns no transfer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from services.node_agent.hypervisor import disk_images
from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, LiveVm, VmNotFound
from services.node_agent.state.journal import Journal, Phase, TransferJournal
from shared.domain import DomainSource, DomainXmlError, guest_abi_differences, identity_snapshot, parse
from shared.messages.lanes import LaneEndpoint
from shared.messages.nodes import DescribeFailed, DescribeVm, VmDescribed
from shared.messages.porting import (
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    ProvisionVm,
    Side,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.vm import IdentityBundle, VmState

QUARANTINE_SUFFIX = ".quarantine"


class VmCommands:
    """Carries out one host's short commands about VMs."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        journal: Journal,
        *,
        node: str,
        lane: LaneEndpoint,
        described: Callable[[LiveVm], None],
    ) -> None:
        """`described` is called after each describe."""
        self._described = described
        self._hypervisor = hypervisor
        self._journal = journal
        self._node = node
        self._lane = lane

    async def describe(self, command: DescribeVm) -> VmDescribed | DescribeFailed:
        """Read the live VM."""
        try:
            vm = await self._hypervisor.describe(command.vm_uuid)
            versions = await self._hypervisor.versions()
        except (HypervisorError, DomainXmlError, disk_images.DiskImageError) as error:
            code = getattr(error, "code", "domain_xml")
            return DescribeFailed(port_id=command.port_id, code=code, detail=str(error))
        self._described(vm)
        bundle = IdentityBundle(
            vm=vm.description,
            domain_xml=vm.domain_xml,
            domain_xml_sha256=hashlib.sha256(vm.domain_xml.encode()).hexdigest(),
            versions=versions,
            node=self._node,
            lane=self._lane,
        )
        return VmDescribed(port_id=command.port_id, identity=bundle)

    async def provision(self, command: ProvisionVm) -> VmProvisioned | CompletionFailed:
        """Define the running VM as it runs, set autostart, compare it with what the donor had."""
        try:
            vm = await self._hypervisor.describe(command.vm_uuid)
            await self._hypervisor.define(vm.domain_xml)
            await self._hypervisor.set_autostart(command.vm_uuid, enabled=command.autostart)
            differences = _identity_differences(command.donor_xml, vm.domain)
        except (HypervisorError, DomainXmlError) as error:
            return _not_yet(command.port_id, Side.INBOUND, error)
        return VmProvisioned(port_id=command.port_id, identity_differences=tuple(differences))

    async def disconnect(self, command: DisconnectVm) -> VmDisconnected | CompletionFailed:
        """Undefine the VM and put its files out of reach, in the same directory."""
        try:
            state = await self._hypervisor.state(command.vm_uuid)
            if state in {VmState.RUNNING, VmState.PAUSED}:
                raise HypervisorError("disconnect a VM", f"{command.vm_uuid} is {state} here")
            record = self._journal.get(command.port_id, Side.OUTBOUND)
            if record is None:
                await self._undefine(command.vm_uuid)
                return VmDisconnected(port_id=command.port_id)
            transfer = TransferJournal(self._journal, record)
            if record.phase is not Phase.QUARANTINED:
                transfer.quarantine(tuple(_quarantined(path, command.port_id) for path in record.disks))
            await self._undefine(command.vm_uuid)
            for path in record.disks:
                await asyncio.to_thread(_move_away, path, _quarantined(path, command.port_id))
        except (HypervisorError, OSError) as error:
            return _not_yet(command.port_id, Side.OUTBOUND, error)
        return VmDisconnected(port_id=command.port_id, quarantined_disks=transfer.record.quarantined_disks)

    async def _undefine(self, uuid: UUID) -> None:
        try:
            await self._hypervisor.undefine(uuid, keep_nvram=True)
        except VmNotFound:
            return

    async def erase(self, port_id: UUID) -> DisksErased:
        """Erase what is in quarantine. Raises `DiskImageError`."""
        record = self._journal.get(port_id, Side.OUTBOUND)
        erased = 0
        for path in record.quarantined_disks if record else ():
            erased += await asyncio.to_thread(disk_images.erase, path)
        self._journal.remove(port_id, Side.OUTBOUND)
        return DisksErased(port_id=port_id, erased_bytes=erased)


def _not_yet(port_id: UUID, side: Side, error: Exception) -> CompletionFailed:
    code = getattr(error, "code", "os_error" if isinstance(error, OSError) else "domain_xml")
    return CompletionFailed(port_id=port_id, side=side, code=code, detail=str(error))


def _identity_differences(donors: DomainSource, ours: DomainSource) -> list[str]:
    before, after = parse(donors), parse(ours)
    old, new = identity_snapshot(before), identity_snapshot(after)
    changed = [
        f"{key}: {old.get(key)} became {new.get(key)}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
    ]
    return changed + guest_abi_differences(before, after)


def _quarantined(path: str, port_id: UUID) -> str:
    return f"{path}.{port_id}{QUARANTINE_SUFFIX}"


def _move_away(path: str, quarantined: str) -> None:
    """Rename; a second call finds it done."""
    if Path(path).exists():
        os.replace(path, quarantined)
        os.chmod(quarantined, 0o600)
