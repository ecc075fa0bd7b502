"""The hypervisor port over libvirt: which libvirt call does what `interface` says.

Calls block, so `libvirt_connection` runs them in threads. `inventory` and `state` ask no QEMU monitor, so a frozen
guest cannot hang them; the fence does not even ask libvirtd.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import libvirt

from services.node_agent.hypervisor import cpu_questions
from services.node_agent.hypervisor.cpu_comparison import cpu_xml
from services.node_agent.hypervisor.host_reader import HostReader
from services.node_agent.hypervisor.interface import (
    EventListener,
    HypervisorError,
    JobStats,
    LiveVm,
    MigrationPlan,
    Obstacle,
    VmNotFound,
)
from services.node_agent.hypervisor.libvirt_cards import seen_cards
from services.node_agent.hypervisor.libvirt_connection import LibvirtSession
from services.node_agent.hypervisor.libvirt_inventory import LibvirtInventory, SizeQuestion
from services.node_agent.hypervisor.libvirt_mapping import (
    STATES,
    files_in_use,
    job_stats,
    live_vm,
    mib_per_s,
)
from services.node_agent.hypervisor.libvirt_secrets import LibvirtSecrets
from services.node_agent.hypervisor.libvirt_types import LibvirtDomain
from services.node_agent.hypervisor.obstacles import find_obstacles
from services.node_agent.hypervisor.process_fence import ProcessFence
from services.node_agent.hypervisor.running_check import RunningCheck
from services.node_agent.hypervisor.seen_cards import SeenCards
from shared.domain import describe
from shared.logs import get_logger
from shared.messages.vm import (
    CpuFacts,
    HostCapacity,
    HostPlatform,
    HypervisorVersions,
    VmState,
    VmSummary,
)

log = get_logger(__name__)

_SWITCHOVER_BANDWIDTH = "bandwidth.avail.switchover"
"""VIR_MIGRATE_PARAM_BANDWIDTH_AVAIL_SWITCHOVER, in MiB/s; a binding made with an older libvirt has no name for it."""
_SWITCHOVER_BANDWIDTH_SINCE = HypervisorVersions(qemu=(8, 2, 0), libvirt=(11, 1, 0))

_MOVING = {libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP}
"""Why a domain is paused that is arriving, or about to leave."""

_PAUSED_AFTER_START = {libvirt.VIR_DOMAIN_PAUSED_USER, libvirt.VIR_DOMAIN_PAUSED_IOERROR}
"""Why a domain is paused that was running: `virsh suspend` of one that waits for its migration changes no reason."""
COMPARE = "compare a CPU"
_POST_COPY = {libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED}
"""Why a domain is paused whose guest post-copy has taken, or tried to."""

AGENT_WITHIN_S = 1.5
"""How long a guest's agent may take to tell its addresses."""
SIZE_WITHIN_S = 1.0
"""How long it is waited for when it is asked how large a disk is: a heartbeat waits meanwhile."""


def _comparable(cpu: CpuFacts) -> str:
    try:
        return cpu_xml(cpu)
    except ValueError as error:
        raise HypervisorError(COMPARE, str(error)) from error


class LibvirtHypervisor(RunningCheck):
    """One libvirtd. Build it on the event loop that will hear its events."""

    def __init__(
        self,
        uri: str,
        *,
        image_dir: str,
        bridges: tuple[str, ...] = (),
        accelerators: tuple[str, ...] = (),
        pid_dir: str = "/run/libvirt/qemu",
        qemu_within_s: float = 10.0,
    ) -> None:
        """`bridges` are those that guests may use; `accelerators` narrows what libvirt claims; `pid_dir` has QEMU's pid
        files, for the fence; `qemu_within_s` is how long a guest's QEMU may take to say whether it can move:
        less than a description may take.
        """
        self._session = LibvirtSession(uri)
        self._image_dir = image_dir
        self._host = HostReader(bridges=bridges, accelerators=accelerators)
        self._fence = ProcessFence(Path(pid_dir))
        self._inventory = LibvirtInventory()
        self._qemu_within_s = qemu_within_s
        self.secrets = LibvirtSecrets(self._session)

    async def connect(self) -> None:
        """Open the connection and subscribe to events."""
        await self._session.connect()

    async def close(self) -> None:
        """Close the connection; calls that still block end with it."""
        await self._session.close()

    def listen(self, listener: EventListener) -> Callable[[], None]:
        """Hear lifecycle events on the event loop."""
        return self._session.listen(listener)

    # ---- reading ----

    async def versions(self) -> HypervisorVersions:
        """Read the versions."""
        return await self._session.call("read versions", lambda: self._host.versions(self._session.open()))

    async def platform(self) -> HostPlatform:
        """Read what can be run here. Capabilities are asked again when a version has changed; bridges come and go."""
        return await self._session.call("read capabilities", lambda: self._host.platform(self._session.open()))

    async def compare_cpu(self, cpu: CpuFacts, *, architecture: str, machine: str, accelerator: str) -> str | None:
        """Let libvirt compare."""
        under, xml = cpu_questions.Under(architecture, machine, accelerator), _comparable(cpu)
        return await self._session.call(COMPARE, lambda: cpu_questions.compare(self._session.open(), xml, under))

    async def common_cpu(self, cpu: CpuFacts, *, architecture: str, machine: str, accelerator: str) -> CpuFacts | None:
        """Let libvirt find the baseline of both."""
        under, xml = cpu_questions.Under(architecture, machine, accelerator), _comparable(cpu)
        return await self._session.call(COMPARE, lambda: cpu_questions.common(self._session.open(), xml, under))

    async def capacity(self) -> HostCapacity:
        """Read the host's memory, CPUs and the image directory's file system."""
        return await self._session.call(
            "read capacity", lambda: self._host.capacity(self._session.open(), self._image_dir)
        )

    async def inventory(self) -> tuple[VmSummary, ...]:
        """List all VMs."""
        listed = await self._session.call("list VMs", lambda: self._inventory.read(self._session.open()))
        questions = self._inventory.unsized(time.monotonic())
        if not questions:
            return listed
        await asyncio.gather(*map(self._ask_size, questions))
        return await self._session.call("list VMs", lambda: self._inventory.read(self._session.open()))

    async def _ask_size(self, question: SizeQuestion) -> None:
        try:
            info = await self._session.ask(
                "read a disk's size of",
                question.vm_uuid,
                lambda _, domain: domain.blockInfo(question.target),
                within_s=SIZE_WITHIN_S,
            )
        except HypervisorError as error:
            log.info("disk size unknown", vm=str(question.vm_uuid), disk=question.target, error=str(error))
            return
        self._inventory.sized(question, info[0])

    async def describe(self, uuid: UUID) -> LiveVm:
        """Read a VM as it runs."""
        return await self._session.with_domain("describe", uuid, live_vm)

    async def seen_cards(self, uuid: UUID) -> SeenCards:
        """Ask libvirt, and the guest's agent."""
        return await seen_cards(self._session, uuid, agent_within_s=AGENT_WITHIN_S)

    async def obstacles(self, uuid: UUID) -> tuple[Obstacle, ...]:
        """Ask libvirt, read the images, ask QEMU; each asker's failure is its own."""
        return await find_obstacles(self._session, uuid, qemu_within_s=self._qemu_within_s)

    async def state(self, uuid: UUID) -> VmState | None:
        """Read a VM's run state."""
        try:
            return await self._session.with_domain(
                "read the state of", uuid, lambda d: STATES.get(d.state()[0], VmState.OTHER)
            )
        except VmNotFound:
            return None

    async def is_left_behind(self, uuid: UUID) -> bool:
        """Read why a VM is paused."""
        return await self._is_paused(uuid, _POST_COPY)

    async def is_paused_after_start(self, uuid: UUID) -> bool:
        """Read why a VM is paused: libvirt gives these reasons only to one that was running."""
        return await self._is_paused(uuid, _PAUSED_AFTER_START)

    async def _is_paused(self, uuid: UUID, reasons: set[int]) -> bool:
        try:
            state, reason = await self._session.with_domain("read the state of", uuid, lambda d: d.state()[:2])
        except VmNotFound:
            return False
        return bool(state == libvirt.VIR_DOMAIN_PAUSED and reason in reasons)

    async def files_in_use(self, *, besides: UUID | None = None) -> Mapping[str, str]:
        """Read every definition, and the headers of the images that they name."""
        doing = "read which files are in use"
        return await self._session.call(doing, lambda: files_in_use(self._session.open(), besides))

    async def peek_memory(self, uuid: UUID, address: int, size: int) -> bytes:
        """Read guest-physical memory."""
        physical = libvirt.VIR_MEMORY_PHYSICAL
        return await self._session.with_domain(
            "read the memory of", uuid, lambda d: d.memoryPeek(address, size, physical)
        )

    # ---- definitions ----

    async def define(self, domain_xml: str) -> None:
        """Define a VM."""
        await self._session.call("define a VM", lambda: self._session.open().defineXML(domain_xml))

    async def undefine(self, uuid: UUID, *, keep_nvram: bool) -> None:
        """Undefine a VM that is persistent."""
        if keep_nvram:
            kept = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_TPM
        else:
            kept = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_TPM
        # Without these libvirt refuses for as long as there is any of it.
        forgotten = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        )

        def undefine(domain: LibvirtDomain) -> None:
            if domain.isPersistent():
                domain.undefineFlags(kept | forgotten)

        await self._session.with_domain("undefine", uuid, undefine)

    async def set_autostart(self, uuid: UUID, *, enabled: bool) -> None:
        """Set autostart."""
        await self._session.with_domain("set autostart of", uuid, lambda d: d.setAutostart(int(enabled)))

    async def start(self, uuid: UUID) -> None:
        """Boot the VM."""
        await self._session.with_domain("start", uuid, lambda d: None if d.isActive() else d.create())

    async def resume(self, uuid: UUID) -> None:
        """Run the vCPUs of a paused guest."""
        await self._session.with_domain(
            "resume", uuid, lambda d: d.resume() if d.state()[0] == libvirt.VIR_DOMAIN_PAUSED else None
        )

    async def destroy(self, uuid: UUID) -> None:
        """End the guest."""

        # A stopped QEMU does not handle SIGTERM, and libvirt would wait for it.
        await self.kill_frozen(uuid)
        try:
            await self._session.with_domain("destroy", uuid, _destroy)
        except VmNotFound:
            return

    async def destroy_created(self, uuid: UUID, *, disks: tuple[str, ...]) -> None:
        """End a guest that a transfer made."""

        def destroy(domain: LibvirtDomain) -> None:
            ours = _has_disks(self._fence, domain, uuid, disks)
            if ours and domain.isPersistent():
                raise HypervisorError(f"destroy VM {uuid}", "a lasting VM of this host uses the port's disks")
            if ours:
                self._fence.kill_frozen(uuid)
                _destroy(domain)

        try:
            await self._session.with_domain("destroy", uuid, destroy)
        except VmNotFound:
            return

    # ---- migration ----

    async def migrate(self, plan: MigrationPlan) -> None:
        """Run the peer-to-peer migration."""
        params: dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_URI: plan.memory_uri,
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: plan.domain_xml,
        }
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
        if plan.disks:
            flags |= libvirt.VIR_MIGRATE_NON_SHARED_INC if plan.overlays else libvirt.VIR_MIGRATE_NON_SHARED_DISK
            params[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = plan.disks_uri
            params[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(plan.disks)
        if plan.switchover_bandwidth_bytes_per_s is not None:
            params[_SWITCHOVER_BANDWIDTH] = mib_per_s(plan.switchover_bandwidth_bytes_per_s)
        if plan.auto_converge:
            flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        if plan.post_copy_allowed:
            flags |= libvirt.VIR_MIGRATE_POSTCOPY
        await self._session.with_domain(
            "migrate", plan.vm_uuid, lambda d: d.migrateToURI3(plan.driver_uri, params, flags)
        )

    async def job(self, uuid: UUID) -> JobStats | None:
        """Read the running job."""
        return await self._stats(uuid, 0)

    async def completed_job(self, uuid: UUID) -> JobStats | None:
        """Read the finished job and keep it readable."""
        flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
        return await self._stats(uuid, flags)

    async def _stats(self, uuid: UUID, flags: int) -> JobStats | None:
        try:
            stats = await self._session.with_domain("read the job of", uuid, lambda d: d.jobStats(flags))
        except VmNotFound:
            return None
        return None if stats.get("type") == libvirt.VIR_DOMAIN_JOB_NONE else job_stats(stats)

    async def abort_job(self, uuid: UUID) -> None:
        """Abort the running job."""

        def abort(domain: LibvirtDomain) -> None:
            try:
                domain.abortJob()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise

        try:
            await self._session.with_domain("abort the job of", uuid, abort)
        except VmNotFound:
            return

    async def takes_switchover_bandwidth(self) -> bool:
        """Compare versions."""
        ours, since = await self.versions(), _SWITCHOVER_BANDWIDTH_SINCE
        return ours.qemu >= since.qemu and ours.libvirt >= since.libvirt

    async def set_max_downtime(self, uuid: UUID, milliseconds: int) -> None:
        """Set the downtime that QEMU may plan with."""
        await self._session.with_domain(
            "set the maximum downtime of", uuid, lambda d: d.migrateSetMaxDowntime(milliseconds)
        )

    async def start_post_copy(self, uuid: UUID) -> None:
        """Start post-copy."""
        await self._session.with_domain("start post-copy of", uuid, lambda d: d.migrateStartPostCopy())

    # ---- the fence ----

    async def freeze(self, uuid: UUID) -> bool:
        """Stop the QEMU process itself."""
        return await asyncio.to_thread(self._fence.freeze, uuid)

    async def thaw(self, uuid: UUID) -> None:
        """Let the QEMU process go on."""
        await asyncio.to_thread(self._fence.thaw, uuid)

    async def kill_frozen(self, uuid: UUID) -> bool:
        """Kill the stopped QEMU process; libvirtd notices by itself."""
        return await asyncio.to_thread(self._fence.kill_frozen, uuid)

    async def frozen(self) -> frozenset[UUID]:
        """Read the processes' states."""
        return await asyncio.to_thread(self._fence.frozen)

    async def vcpu_time_ns(self, uuid: UUID) -> int | None:
        """Read the threads' figures."""
        return await asyncio.to_thread(self._fence.vcpu_time_ns, uuid)


def _destroy(domain: LibvirtDomain) -> None:
    try:
        if domain.isActive():
            domain.destroy()
    except libvirt.libvirtError as error:
        # It ended meanwhile: with its QEMU killed here, or by itself.
        if error.get_error_code() not in {libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN}:
            raise


def _has_disks(fence: ProcessFence, domain: LibvirtDomain, uuid: UUID, disks: tuple[str, ...]) -> bool:
    if fence.holds_files(uuid, disks):
        return True
    state, reason = domain.state()[:2]
    if state == libvirt.VIR_DOMAIN_PAUSED and reason in _MOVING:
        # Its XML waits for the migration's lock, and its process is not seen.
        raise HypervisorError(f"destroy VM {uuid}", "whose disks it has cannot be told yet")
    sources = {disk.source for disk in describe(domain.XMLDesc(0)).disks}
    return bool(sources & set(disks))
