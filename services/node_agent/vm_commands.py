"""The short commands about a VM: describe it, compare its CPU, define the arrived one, disconnect the one that left,
erase its disks.

Each may be asked again at any time and then answers the same. Owns no transfer.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from uuid import UUID

from pydantic import ValidationError

from services.node_agent.hypervisor import disk_images
from services.node_agent.hypervisor.cpu_comparison import in_words
from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, LiveVm, Obstacle, VmNotFound
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.vm_addresses import VmAddresses
from services.node_agent.quarantine import erase, erase_folders, move_away, plan_quarantine
from services.node_agent.state.journal import Journal, Phase, PortRecord, TransferJournal
from shared.domain import (
    DomainSource,
    DomainXmlError,
    FindingKind,
    describe,
    guest_abi_differences,
    identity_snapshot,
    leaving,
    next_needs,
    parse,
)
from shared.logs import get_logger
from shared.messages.base import Refusal
from shared.messages.lanes import LaneEndpoint
from shared.messages.nodes import CheckVm, DescribeFailed, DescribeVm, VmChecked, VmDescribed
from shared.messages.porting import (
    MAX_ADDRESS_DIFFERENCES,
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    ProvisionVm,
    Side,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.vm import IdentityBundle, VmDescription, VmState

log = get_logger(__name__)

KEEP_ERASED_S = 30 * 86_400.0
"""How long it is remembered that a port's disks were erased."""


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
        metrics: NodeMetrics,
        addresses: VmAddresses | None = None,
    ) -> None:
        """`described` is called with each VM that was described and that a port may follow. Without `addresses` nothing
        is told of them.
        """
        self._described = described
        self._hypervisor = hypervisor
        self._journal = journal
        self._node = node
        self._lane = lane
        self._metrics = metrics
        self._addresses = addresses

    async def describe(self, command: DescribeVm) -> VmDescribed | DescribeFailed:
        """Read the live VM, and ask what speaks against moving it. Always answers."""
        try:
            vm = await self._hypervisor.describe(command.vm_uuid)
            bundle = await self._bundle(vm, await self._hypervisor.obstacles(command.vm_uuid))
        except (HypervisorError, DomainXmlError, disk_images.DiskImageError) as error:
            return DescribeFailed(port_id=command.port_id, code=error.code, detail=str(error))
        except ValidationError as error:
            return DescribeFailed(port_id=command.port_id, code="beyond_a_limit", detail=_limits(error))
        except Exception as error:
            log.exception("VM not described", vm=str(command.vm_uuid))
            detail = f"the node cannot read the VM: {type(error).__name__}: {error}"
            return DescribeFailed(port_id=command.port_id, code="unreadable", detail=detail)
        if command.port_may_follow:
            self._described(vm)
        return VmDescribed(port_id=command.port_id, identity=bundle)

    async def _bundle(self, vm: LiveVm, obstacles: tuple[Obstacle, ...]) -> IdentityBundle:
        """Raises `HypervisorError`, `DomainXmlError`, and `ValidationError` where the VM is larger than a message may
        say.
        """
        versions = await self._hypervisor.versions()
        goes = leaving(vm.domain, vm.lasting_xml)
        found = [finding for finding in goes.findings if finding.kind is FindingKind.BLOCKS]
        blockers = dict.fromkeys((*vm.description.blockers, *map(str, found), *map(str, obstacles)))
        lost = [f"{each.part}: {each.detail}" for each in goes.findings if each.kind is FindingKind.NOT_KEPT]
        # The recipient's libvirt defines the lasting one after the switchover, so what it needs is asked before.
        of_media = {line for disk in vm.description.disks for line in disk.medium_blockers}
        stays = not blockers.keys() <= of_media
        later = next_needs(goes.lasting_xml) if goes.lasting_xml is not None and not stays else ()
        network = await self._addresses.describe(vm.description) if self._addresses is not None else None
        told = vm.description.model_dump() | {
            "network": network,
            "blockers": tuple(blockers),
            "needs": tuple(dict.fromkeys((*vm.description.needs, *later))),
            "not_kept": tuple(dict.fromkeys((*vm.description.not_kept, *lost))),
        }
        return IdentityBundle(
            vm=VmDescription.model_validate(told),
            domain_xml=goes.domain_xml,
            domain_xml_sha256=hashlib.sha256(goes.domain_xml.encode()).hexdigest(),
            lasting_xml=goes.lasting_xml,
            versions=versions,
            node=self._node,
            lane=self._lane,
        )

    async def check(self, command: CheckVm) -> VmChecked:
        """Let this host's libvirt compare the VM's CPU with its own, and name the one that would do instead."""
        try:
            problem = await self._hypervisor.compare_cpu(
                command.cpu,
                architecture=command.architecture,
                machine=command.machine,
                accelerator=command.domain_type,
            )
        except HypervisorError as error:
            return self._checked(command, "cpu_not_compared", str(error))
        if problem is None:
            return VmChecked(port_id=command.port_id)
        return self._checked(command, "cpu_incompatible", problem + await self._instead(command))

    def _checked(self, command: CheckVm, code: str, problem: str) -> VmChecked:
        refusal = Refusal(
            code=code,
            rule="The host's CPU, under QEMU, has every feature that the VM's CPU has, since the guest keeps it.",
            evidence=f"node {self._node}: {command.cpu.model}: {problem}",
        )
        return VmChecked(port_id=command.port_id, refusals=(refusal,))

    async def _instead(self, command: CheckVm) -> str:
        """The CPU that would do, as a clause: a guest keeps its CPU until its next start."""
        try:
            cpu = await self._hypervisor.common_cpu(
                command.cpu,
                architecture=command.architecture,
                machine=command.machine,
                accelerator=command.domain_type,
            )
        except HypervisorError as error:
            return f"; no CPU is known that would do instead: {error}"
        if cpu is None:
            return ""
        return f"; it could come with this CPU, once it was started with it: {in_words(cpu)}"

    async def provision(self, command: ProvisionVm) -> VmProvisioned | CompletionFailed:
        """Compare the VM that runs with what the donor had. A lasting VM is defined, with its own lasting definition
        and autostart; a transient one stays transient.

        A VM that ended before that (its owner switched it off, QEMU crashed, the host was restarted) is compared as it
        was agreed.
        """
        record = self._journal.get(command.port_id, Side.INBOUND)
        try:
            domain_xml = await self._arrived_xml(command, record)
            if command.lasting_xml is not None:
                await self._define(command, command.lasting_xml)
            differences = _identity_differences(command.donor_xml, domain_xml)
            if record is not None:
                self._journal.given_away.has_returned(command.vm_uuid, record.agreement.epoch)
            of_addresses = await self._address_differences(command.vm_uuid, record)
        except (HypervisorError, DomainXmlError, disk_images.DiskImageError, OSError) as error:
            return _not_yet(command.port_id, Side.INBOUND, error)
        return VmProvisioned(
            port_id=command.port_id,
            identity_differences=tuple(differences),
            address_differences=of_addresses[:MAX_ADDRESS_DIFFERENCES],
        )

    async def _address_differences(self, vm_uuid: UUID, record: PortRecord | None) -> tuple[str, ...]:
        """Of the VM that runs here; one that does not says nothing."""
        if record is None or self._addresses is None:
            return ()
        try:
            vm = await self._hypervisor.describe(vm_uuid)
        except VmNotFound:
            return ()
        if vm.description.state is not VmState.RUNNING:
            return ()
        return await self._addresses.differences(record.agreement.network, vm.description)

    async def _define(self, command: ProvisionVm, lasting_xml: str) -> None:
        uuid = describe(lasting_xml).uuid
        if uuid != str(command.vm_uuid):
            raise DomainXmlError(f"the lasting definition is of VM {uuid}, not of {command.vm_uuid}")
        await self._hypervisor.define(lasting_xml)
        await self._hypervisor.set_autostart(command.vm_uuid, enabled=command.autostart)

    async def _arrived_xml(self, command: ProvisionVm, record: PortRecord | None) -> str:
        """How it runs here; of one that has ended meanwhile, how it was agreed. Raises `HypervisorError`."""
        agreed = _agreed_xml(command, record)
        try:
            vm = await self._hypervisor.describe(command.vm_uuid)
            if agreed is None or vm.description.state is not VmState.SHUT_OFF:
                return vm.domain_xml
        except VmNotFound:
            if agreed is None:
                raise
        # The guest that arrived was transient: what libvirt still has of it, if anything, is the lasting definition.
        log.warning("arrived VM has ended; it is taken as agreed", vm=str(command.vm_uuid))
        return agreed

    async def disconnect(self, command: DisconnectVm) -> VmDisconnected | CompletionFailed:
        """Undefine the VM and put its files out of reach, in the same directory. Files of others are left alone."""
        record = self._journal.get(command.port_id, Side.OUTBOUND)
        try:
            await self._end_copy(command, record)
            if record is None:
                await self._undefine(command.vm_uuid)
                return VmDisconnected(port_id=command.port_id)
            in_use = await self._hypervisor.files_in_use(besides=command.vm_uuid)
            plan = await asyncio.to_thread(
                plan_quarantine,
                record.disks,
                command.port_id,
                in_use,
                record.state_folders,
                read_only=record.read_only_disks,
            )
            known = (record.phase, record.quarantined_disks, record.quarantined_folders, record.left_disks)
            until = max(filter(None, (record.keep_until, command.keep_until)), default=None)
            if (*known, record.keep_until) != (Phase.QUARANTINED, plan.kept, plan.kept_folders, plan.left, until):
                journal = TransferJournal(self._journal, record)
                journal.quarantine(plan.kept, plan.left, plan.kept_folders, keep_until=until)
            await self._undefine(command.vm_uuid)
            await asyncio.to_thread(move_away, plan)
        except (HypervisorError, DomainXmlError, OSError) as error:
            return _not_yet(command.port_id, Side.OUTBOUND, error)
        for sentence in plan.left:
            log.warning("disk not put into quarantine", port_id=str(command.port_id), reason=sentence)
        kept = (*plan.kept, *plan.kept_folders)
        return VmDisconnected(port_id=command.port_id, quarantined_disks=kept, left_disks=plan.left)

    async def _end_copy(self, command: DisconnectVm, record: PortRecord | None) -> None:
        """Make sure that no copy of the VM is alive here. Raises `HypervisorError` where one is and may be the VM."""
        state = await self._hypervisor.state(command.vm_uuid)
        if state in {None, VmState.SHUT_OFF}:
            return
        # Proof that it is elsewhere: the transfer is over, and this port's file is there, which goes when the ledger
        # gives the VM back and when it comes here again.
        over = record is not None and record.phase in {Phase.DONE, Phase.FAILED, Phase.QUARANTINED}
        if not over or not self._journal.given_away.given_by(command.vm_uuid, command.port_id):
            raise HypervisorError("disconnect a VM", f"{command.vm_uuid} is {state} here")
        log.error("second copy of a VM that has left; destroying it", vm=str(command.vm_uuid), state=str(state))
        await self._hypervisor.destroy(command.vm_uuid)
        self._metrics.second_copies_total.inc()

    async def _undefine(self, uuid: UUID) -> None:
        try:
            await self._hypervisor.undefine(uuid, keep_nvram=True)
        except VmNotFound:
            return

    async def erase(self, port_id: UUID) -> DisksErased | CompletionFailed:
        """Erase what is in quarantine, and that no VM of this host has; then the secrets that opened it."""
        record = self._journal.get(port_id, Side.OUTBOUND)
        if record is None or record.phase is not Phase.QUARANTINED:
            detail = "nothing is known of this port's disks; look for *.quarantine files of it, and erase them by hand"
            return CompletionFailed(port_id=port_id, side=Side.OUTBOUND, code="unknown_port", detail=detail)
        if record.is_erased and record.last_word is not None:
            return DisksErased.model_validate_json(record.last_word.body)
        if record.keep_until is not None and time.time() < record.keep_until.timestamp():
            detail = f"a rule has the disks kept until {record.keep_until.isoformat()}"
            return CompletionFailed(port_id=port_id, side=Side.OUTBOUND, code="kept_by_rule", detail=detail)
        try:
            # Of every VM: also of this one, which may be here again.
            in_use = await self._hypervisor.files_in_use()
            erased = await asyncio.to_thread(erase, record.quarantined_disks, in_use)
            erased += await asyncio.to_thread(erase_folders, record.quarantined_folders)
            await self._discard_secrets(record)
            answer = DisksErased(port_id=port_id, erased_bytes=erased)
            TransferJournal(self._journal, record).erased(answer)
            self._journal.remove_erased(time.time() - KEEP_ERASED_S)
        except (HypervisorError, DomainXmlError, disk_images.DiskImageError, OSError) as error:
            return _not_yet(port_id, Side.OUTBOUND, error)
        return answer

    async def _discard_secrets(self, record: PortRecord) -> None:
        """The keys of what is erased, but those that another VM has, too. Raises `HypervisorError`."""
        for uuid in record.secrets:
            if (user := await self._hypervisor.secrets.user_of(uuid)) is not None:
                log.warning("secret not removed", port_id=str(record.port_id), reason=f"VM {user} uses {uuid}, too")
            else:
                await self._hypervisor.secrets.discard(uuid)


def _agreed_xml(command: ProvisionVm, record: PortRecord | None) -> str | None:
    """How the VM was to run here; None where it has not arrived."""
    # KEPT: it was not seen here, but the donor heard that it ran, or the broker would not ask this.
    if record is None or record.phase not in {Phase.DONE, Phase.KEPT}:
        return None
    return record.agreement.domain_xml if record.agreement.vm_uuid == command.vm_uuid else None


def _limits(error: ValidationError) -> str:
    """Which limits the VM is beyond, without the values, which may be long."""
    broken = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False))
    return "the VM is beyond what can be ported: " + "; ".join(broken)


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
