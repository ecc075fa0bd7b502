"""What speaks against moving a VM, as libvirt and QEMU themselves say when they are asked. Moves and changes nothing.

Three askers, so that one that hangs silences no other: what libvirt knows by itself, what the images' headers say, and
what only the VM's QEMU knows. The last one ends with libvirt's own beginning of a migration: see `_begin_a_migration`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final
from uuid import UUID

import libvirt

from services.node_agent.hypervisor.image_obstacles import told_by_images
from services.node_agent.hypervisor.interface import HypervisorError, Obstacle, ObstacleCode, VmNotFound
from services.node_agent.hypervisor.libvirt_connection import LibvirtSession
from services.node_agent.hypervisor.libvirt_mapping import BUSY_WITHIN_S, layers_of, wait_until_free
from services.node_agent.hypervisor.libvirt_secrets import told_by_secrets
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection, LibvirtDomain
from shared.domain import DomainXmlError, VmFacts, describe

_MOST_NAMES: Final = 5
_SCHEME: Final = "vmport-asks"
"""Of a migration's URI. libvirt knows no such scheme, and repeats it when it says so."""
_NOWHERE: Final = f"{_SCHEME}://nowhere"

_PAUSED_BY: Final[Mapping[int, str]] = {
    libvirt.VIR_DOMAIN_PAUSED_USER: "by its operator",
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "by a migration",
    libvirt.VIR_DOMAIN_PAUSED_SAVE: "while it is saved",
    libvirt.VIR_DOMAIN_PAUSED_DUMP: "while its memory is dumped",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "by an I/O error of a disk",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "by its watchdog",
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "while a snapshot is made",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: "because its guest crashed",
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: "by a post-copy migration",
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: "by a post-copy migration that failed",
}
_JOBS: Final[Mapping[int, str]] = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_START: "start",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE: "save",
    libvirt.VIR_DOMAIN_JOB_OPERATION_RESTORE: "restore",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: "migration to this host",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: "migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: "return to a snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP: "dump",
    libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP: "backup",
}
_BLOCK_JOBS: Final[Mapping[int, str]] = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: "pull",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: "copy",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: "commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: "active commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: "backup",
}
_DISK_ERRORS: Final[Mapping[int, str]] = {
    libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE: "no space is left",
    libvirt.VIR_DOMAIN_DISK_ERROR_UNSPEC: "an I/O error",
}


async def find_obstacles(session: LibvirtSession, uuid: UUID, *, qemu_within_s: float) -> tuple[Obstacle, ...]:
    """Ask all of them about one VM. Raises `VmNotFound`; any other failure is an obstacle itself."""
    facts: list[VmFacts] = []

    def read(domain: LibvirtDomain) -> list[Obstacle]:
        wait_until_free(domain, BUSY_WITHIN_S)
        facts.append(describe(domain.XMLDesc(0)))
        return [*told_by_libvirt(domain), *told_by_images(facts[0], layers_of(domain, facts[0]))]

    def ask(connection: LibvirtConnection, domain: LibvirtDomain) -> list[Obstacle]:
        return list(told_by_qemu(connection, domain, facts[0])) if domain.isActive() else []

    found: list[Obstacle] = []
    try:
        found += await session.with_domain("read what speaks against moving", uuid, read)
        found += await session.call("look up secrets", lambda: list(told_by_secrets(session.open(), facts[0])))
        found += await session.ask("ask the QEMU of", uuid, ask, within_s=qemu_within_s)
    except VmNotFound:
        raise
    except (HypervisorError, DomainXmlError) as error:
        found.append(Obstacle(ObstacleCode.NOT_ANSWERED, f"{error}; see to the VM's QEMU, then ask again"))
    return tuple(found)


def told_by_libvirt(domain: LibvirtDomain) -> Iterator[Obstacle]:
    """What libvirtd knows without a word from QEMU. Blocking, though not on QEMU. Raises libvirt's errors."""
    state, reason = domain.state()[:2]
    if state == libvirt.VIR_DOMAIN_PAUSED:
        by = _PAUSED_BY.get(reason, f"for a reason of its own ({reason})")
        yield Obstacle(ObstacleCode.PAUSED, f"the VM is paused {by}; see to it that it runs, then ask again")
    internal = libvirt.VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL
    snapshots = _if_known(lambda: [each.getName() for each in domain.listAllSnapshots(0)])
    if snapshots:
        inside = _if_known(lambda: [each.getName() for each in domain.listAllSnapshots(internal)])
        kinds = f"{len(inside)} internal, {len(snapshots) - len(inside)} external"
        yield Obstacle(
            ObstacleCode.SNAPSHOTS,
            f"the VM has snapshots ({kinds}): {_some(snapshots)}; libvirt does not migrate it with them. "
            "Delete them with virsh snapshot-delete",
        )
    checkpoints = _if_known(lambda: [each.getName() for each in domain.listAllCheckpoints(0)])
    if checkpoints:
        yield Obstacle(
            ObstacleCode.CHECKPOINTS,
            f"the VM has checkpoints of a backup program: {_some(checkpoints)}; they do not move, and libvirt keeps a "
            "definition that has any. Delete them with virsh checkpoint-delete; the next backup is then a full one",
        )
    if domain.hasManagedSaveImage(0):
        yield Obstacle(
            ObstacleCode.MANAGED_SAVE,
            "an older state of the VM's memory is saved on this host; remove it with virsh managedsave-remove",
        )


def told_by_qemu(connection: LibvirtConnection, domain: LibvirtDomain, facts: VmFacts) -> Iterator[Obstacle]:
    """What only QEMU knows. Blocking for as long as QEMU does not answer. Raises libvirt's errors.

    A job that runs is named alone: until it ends, libvirt answers nothing else.
    """
    stats = domain.jobStats()
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE:
        job = _JOBS.get(stats.get("operation", -1), "job")
        yield Obstacle(ObstacleCode.ACTIVE_JOB, f"a {job} of the VM is running; wait for its end (virsh domjobinfo)")
        return
    copied = [disk.target for disk in facts.disks if not disk.read_only]
    jobs = list(_block_jobs(domain, [disk.target for disk in facts.disks]))
    yield from jobs
    for target, error in domain.diskErrors().items():
        what = _DISK_ERRORS.get(error, "an I/O error")
        yield Obstacle(ObstacleCode.DISK_ERROR, f"disk {target} reports: {what}; see to its storage, then ask again")
    if jobs or domain.snapshotNum():
        return  # libvirt would only say so again
    refusal = _begin_a_migration(connection, domain, copied)
    if refusal is not None:
        yield Obstacle(ObstacleCode.NOT_MIGRATABLE, f"libvirt and QEMU refuse to migrate the VM: {refusal}")


def _block_jobs(domain: LibvirtDomain, targets: Iterable[str]) -> Iterator[Obstacle]:
    for target in targets:
        job = domain.blockJobInfo(target, 0)
        if job:
            kind = _BLOCK_JOBS.get(job.get("type", 0), "job")
            yield Obstacle(
                ObstacleCode.BLOCK_JOB,
                f"a block {kind} of disk {target} is running; wait for its end, or end it with virsh blockjob",
            )


def _begin_a_migration(connection: LibvirtConnection, domain: LibvirtDomain, disks: list[str]) -> str | None:
    """Why libvirt would not begin to migrate this VM with these disks; None where it would.

    A migration to the daemon that the VM is at already, to an address that is none: libvirt's Begin judges the VM by
    all of its own rules and asks QEMU for its blocked reasons; Prepare then refuses the address, before it calls a hook
    or makes anything, and Confirm ends the job. The guest runs on, no event is seen, and the domain is not marked as
    tainted, as a monitor command of ours would mark it. libvirtd logs one line: "unsupported scheme vmport-asks".
    """
    flags = libvirt.VIR_MIGRATE_LIVE
    params: dict[str, object] = {libvirt.VIR_MIGRATE_PARAM_URI: _NOWHERE}
    if disks:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
        params |= {libvirt.VIR_MIGRATE_PARAM_DISKS_URI: _NOWHERE, libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS: disks}
    try:
        domain.migrate3(connection, params, flags)
    except libvirt.libvirtError as error:
        said = error.get_error_message() or str(error)
        # By the scheme alone: the other words may be of another language.
        return None if _SCHEME in said else said
    return "a migration to nowhere did not end as it must"


def _if_known(ask: Callable[[], list[str]]) -> list[str]:
    """Empty where this libvirt has no such thing."""
    try:
        return ask()
    except libvirt.libvirtError as error:
        if error.get_error_code() in {libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_UNSUPPORTED}:
            return []
        raise


def _some(names: list[str]) -> str:
    left = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {left} more" if left > 0 else "")
