"""All VMs of a host in a few words each. One that cannot be read is one entry with its problem, and hides no other.

Sizes of network disks are QEMU's to tell: they are asked apart from the list, by whoever calls `unsized`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import libvirt

from services.node_agent.hypervisor.disk_sizes import DiskPlace, disk_places, size_bytes
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.libvirt_mapping import STATES, busy_for_s, wait_until_free
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection, LibvirtDomain
from shared.domain import DomainSource, describe, parse
from shared.logs import get_logger
from shared.messages.vm import VmState, VmSummary

log = get_logger(__name__)

ASK_AGAIN_S: Final = 60.0
"""How long a disk whose size was not told is left alone."""
_MOVING: Final = {libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP}
"""Why a domain is paused that is arriving, or about to leave."""
KIB: Final = 1024
MAX_BYTES: Final = 2**63 - 1
"""The largest size that a message holds; libvirt takes a larger one in a definition."""
BUSY_WITHIN_S: Final = 0.2
"""How long the list waits for one VM whose QEMU somebody is asking."""
BUSY_PROBLEM_S: Final = 10.0
"""A QEMU that has not answered for so long is a problem of its VM."""
ALL_DISKS: Final = ("all",)


@dataclass(frozen=True, slots=True)
class SizeQuestion:
    """A disk whose size only the VM's QEMU knows. `name` is what it is called where it lies."""

    vm_uuid: UUID
    target: str
    name: str


class LibvirtInventory:
    """The list, and what it needs to remember between two readings."""

    def __init__(self) -> None:
        self._listed: dict[UUID, VmSummary] = {}
        self._sizes: dict[SizeQuestion, int] = {}
        self._asked_at_s: dict[SizeQuestion, float] = {}
        self._open: set[SizeQuestion] = set()
        self._problems: dict[UUID, str] = {}

    def read(self, connection: LibvirtConnection) -> tuple[VmSummary, ...]:
        """List all VMs. Blocking. Raises libvirt's errors where there is no list at all."""
        found: dict[UUID, VmSummary] = {}
        self._open = set()
        for domain in connection.listAllDomains():
            uuid = UUID(domain.UUIDString())
            try:
                summary = self._summary(connection, domain, uuid)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    continue  # the VM may end between the two calls
                if not connection.isAlive():
                    raise
                summary = _unreadable(domain, uuid, f"libvirt: {error.get_error_message() or error}")
            except Exception as error:  # noqa: BLE001  # whatever is wrong with one VM is told of that VM alone
                summary = _unreadable(domain, uuid, f"{getattr(error, 'code', 'unreadable')}: {error}")
            if summary is not None:
                found[uuid] = summary
        self._log_problems(found)
        self._listed = found
        self._sizes = {question: size for question, size in self._sizes.items() if question.vm_uuid in found}
        self._asked_at_s = {question: at for question, at in self._asked_at_s.items() if question.vm_uuid in found}
        return tuple(found.values())

    def unsized(self, now_s: float) -> tuple[SizeQuestion, ...]:
        """Disks of the last list whose size is to be asked for now, by a monotonic clock."""
        due = [q for q in self._open if now_s - self._asked_at_s.get(q, -ASK_AGAIN_S) >= ASK_AGAIN_S]
        self._asked_at_s |= dict.fromkeys(due, now_s)
        return tuple(sorted(due, key=lambda question: (str(question.vm_uuid), question.target)))

    def sized(self, question: SizeQuestion, size: int) -> None:
        """A disk has so many bytes; the next list says so."""
        self._sizes[question] = size

    def _summary(self, connection: LibvirtConnection, domain: LibvirtDomain, uuid: UUID) -> VmSummary | None:
        state, reason = domain.state()[:2]
        if state == libvirt.VIR_DOMAIN_PAUSED and reason in _MOVING:
            # An arriving domain's XML waits 30 s for the migration's lock (seen with libvirt 11.3), so it is
            # listed when it runs; a leaving one, while it is paused, is what it was.
            known = self._listed.get(uuid)
            return known.model_copy(update={"state": VmState.PAUSED}) if known is not None else None
        try:
            wait_until_free(domain, BUSY_WITHIN_S)
        except HypervisorError as error:
            return self._busy(domain, uuid, state, str(error))
        xml = parse(domain.XMLDesc(0))
        facts = describe(xml)
        size, unsized = self._disk_sizes(connection, xml, uuid)
        return VmSummary(
            uuid=uuid,
            name=domain.name(),
            state=STATES.get(state, VmState.OTHER),
            memory_bytes=facts.memory_bytes,
            vcpus=facts.vcpus,
            disk_bytes=size,
            unsized_disks=unsized,
            macs=tuple(nic.mac for nic in facts.nics),
        )

    def _busy(self, domain: LibvirtDomain, uuid: UUID, state: int, problem: str) -> VmSummary | None:
        """A VM with which libvirt can do nothing now: as it was, with the problem if that lasts."""
        known = self._listed.get(uuid)
        if known is None or (known.problem and known.unsized_disks == ALL_DISKS):
            return _unreadable(domain, uuid, problem)
        lasts = busy_for_s(domain) >= BUSY_PROBLEM_S
        return known.model_copy(
            update={"state": STATES.get(state, VmState.OTHER), "problem": problem if lasts else known.problem}
        )

    def _disk_sizes(self, connection: LibvirtConnection, xml: DomainSource, uuid: UUID) -> tuple[int, tuple[str, ...]]:
        total, unsized = 0, []
        for place in disk_places(xml):
            size = size_bytes(place, lambda pool, volume: volume_size_bytes(connection, pool, volume))
            if size is None and place.path is None and not place.pool:
                size = self._asked_size(uuid, place)
            if size is None:
                unsized.append(place.target)
            else:
                total += size
        return total, tuple(unsized)

    def _asked_size(self, uuid: UUID, place: DiskPlace) -> int | None:
        question = SizeQuestion(uuid, place.target, place.name)
        size = self._sizes.get(question)
        if size is None:
            self._open.add(question)
        return size

    def _log_problems(self, found: dict[UUID, VmSummary]) -> None:
        """Once per VM and problem, not at each heartbeat."""
        problems = {uuid: vm.problem for uuid, vm in found.items() if vm.problem}
        for uuid, problem in problems.items():
            if self._problems.get(uuid) != problem:
                log.warning("VM cannot be read", vm=str(uuid), reason=problem)
        self._problems = problems


def volume_size_bytes(connection: LibvirtConnection, pool: str, volume: str) -> int | None:
    """The capacity of a storage pool's volume; None where libvirt cannot tell. Blocking."""
    try:
        return connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).info()[1]
    except libvirt.libvirtError:
        return None


def _unreadable(domain: LibvirtDomain, uuid: UUID, problem: str) -> VmSummary | None:
    """A VM of which libvirt's own figures are all that is known; None where it is gone."""
    try:
        state, most_memory_kib, _, vcpus = domain.info()[:4]
        return VmSummary(
            uuid=uuid,
            name=domain.name(),
            state=STATES.get(state, VmState.OTHER),
            memory_bytes=min(most_memory_kib * KIB, MAX_BYTES),
            vcpus=vcpus,
            disk_bytes=0,
            unsized_disks=ALL_DISKS,
            problem=problem,
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        return VmSummary(
            uuid=uuid, name=domain.name(), state=VmState.OTHER, memory_bytes=0, vcpus=0, disk_bytes=0,
            unsized_disks=ALL_DISKS, problem=problem,
        )  # fmt: skip
