"""libvirt's numbers and XML as the values of `interface`: states, job statistics, descriptions.

Pure but for the sizes of disk images, which are read from the files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import libvirt

from services.node_agent.hypervisor import disk_images, read_only_images
from services.node_agent.hypervisor.file_use import files_of, paths_in_text
from services.node_agent.hypervisor.firmware_sizes import with_firmware_sizes
from services.node_agent.hypervisor.interface import HypervisorError, JobStats, LiveVm
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection, LibvirtDomain
from services.node_agent.hypervisor.tpm_state import state_folders
from shared.domain import BlockerCode, DiskFacts, DomainXmlError, LayerFacts, VmFacts, describe, parse, taps_of
from shared.messages.vm import (
    CpuMode,
    Disk,
    VmDescription,
    VmState,
)

MIB = 1 << 20
BUSY_WITHIN_S = 5.0
"""A VM is described when a command that waits for its QEMU ends within so long."""
BUSY_LOOK_S = 0.02

STATES: Mapping[int, VmState] = {
    libvirt.VIR_DOMAIN_RUNNING: VmState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: VmState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: VmState.PAUSED,
    # On its way to its end: by its guest, or by a libvirtd that ends a copy which has never run. No proof of either.
    libvirt.VIR_DOMAIN_SHUTDOWN: VmState.OTHER,
    libvirt.VIR_DOMAIN_SHUTOFF: VmState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: VmState.CRASHED,
}


def mib_per_s(bytes_per_s: int) -> int:
    """libvirt counts in MiB/s; at least one, since 0 means no limit."""
    return max(1, math.ceil(bytes_per_s / MIB))


def job_stats(stats: Mapping[str, Any]) -> JobStats:
    """virDomainGetJobStats' typed parameters as bytes, milliseconds and bytes per second; missing ones count as 0."""

    def number(key: str) -> int:
        return int(stats.get(key) or 0)

    downtime = stats.get(libvirt.VIR_DOMAIN_JOB_DOWNTIME)
    page_bytes = number(libvirt.VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE) or 4096
    return JobStats(
        elapsed_ms=number(libvirt.VIR_DOMAIN_JOB_TIME_ELAPSED),
        memory_total_bytes=number(libvirt.VIR_DOMAIN_JOB_MEMORY_TOTAL),
        memory_processed_bytes=number(libvirt.VIR_DOMAIN_JOB_MEMORY_PROCESSED),
        memory_remaining_bytes=number(libvirt.VIR_DOMAIN_JOB_MEMORY_REMAINING),
        dirty_rate_bytes_per_s=number(libvirt.VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE) * page_bytes,
        memory_iteration=number(libvirt.VIR_DOMAIN_JOB_MEMORY_ITERATION),
        disk_total_bytes=number(libvirt.VIR_DOMAIN_JOB_DISK_TOTAL),
        disk_processed_bytes=number(libvirt.VIR_DOMAIN_JOB_DISK_PROCESSED),
        disk_remaining_bytes=number(libvirt.VIR_DOMAIN_JOB_DISK_REMAINING),
        downtime_ms=int(downtime) if downtime is not None else None,
    )


def busy_for_s(domain: LibvirtDomain) -> float:
    """For how long a command waits for the VM's QEMU, anybody's; 0 where none does. Waits for nobody itself.

    Blocking. Raises libvirt's errors.
    """
    try:
        control, _, milliseconds = domain.controlInfo()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return 0.0  # it does not run
        raise
    return max(1, milliseconds) / 1000 if control == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED else 0.0


def wait_until_free(domain: LibvirtDomain, within_s: float) -> None:
    """Wait for the end of a command that waits for the VM's QEMU: until then libvirt does not even tell its XML, and
    makes each who asks wait for 30 s.

    Blocking. Raises `HypervisorError` for a command that has waited for longer, and libvirt's errors.
    """
    while (busy_s := busy_for_s(domain)) > 0:
        if busy_s >= within_s:
            raise HypervisorError(f"read VM {domain.name()}", "its QEMU does not answer libvirt (see virsh domcontrol)")
        time.sleep(BUSY_LOOK_S)


def live_vm(domain: LibvirtDomain) -> LiveVm:
    """A VM as it runs now. Blocking. Raises DiskImageError, DomainXmlError, HypervisorError and libvirt's errors."""
    wait_until_free(domain, BUSY_WITHIN_S)
    flags = libvirt.VIR_DOMAIN_XML_SECURE
    active = bool(domain.isActive())
    if active:
        flags |= libvirt.VIR_DOMAIN_XML_MIGRATABLE
    xml = domain.XMLDesc(flags)
    read = parse(xml)
    now = parse(domain.XMLDesc(0)) if active else read
    live = describe(now)
    facts, problems = with_firmware_sizes(with_expanded_cpu(describe(read), live))
    blockers = list(problems)
    if not active:
        blockers.append("not_running: the VM does not run; only a running VM is ported")
    of_images = read_only_images.blockers_of(facts.disks)
    blockers += of_images.values()
    facts = with_medium_blockers(facts, of_images)
    own_disks = (disk.source for disk in facts.disks if not disk.read_only)
    blockers += memory_file_blockers(facts)
    memory = (file.path for file in facts.memory_files if file.path is not None)
    files = (*own_disks, *((facts.nvram,) if facts.nvram else ()), *memory)
    layers = _layers(live)
    return LiveVm(
        description(domain, facts, layers, tuple(blockers)),
        xml,
        read,
        files,
        layers,
        state_folders=state_folders(UUID(facts.uuid)),
        lasting_xml=lasting_xml(domain),
        taps=taps_of(now),
    )


def layers_of(domain: LibvirtDomain, facts: VmFacts) -> dict[str, tuple[LayerFacts, ...]]:
    """What lies beneath each overlay. The migratable XML leaves out what libvirt itself found beneath a disk.

    Blocking. Raises DomainXmlError and libvirt's errors.
    """
    return _layers(describe(domain.XMLDesc(0)) if domain.isActive() else facts)


def _layers(live: VmFacts) -> dict[str, tuple[LayerFacts, ...]]:
    return {disk.target: disk.layers for disk in live.disks if disk.layers}


def memory_file_blockers(facts: VmFacts) -> list[str]:
    """One for each memory of the guest that is not in a plain file: the donor could not put it away. Reads no file."""
    return [
        f"{BlockerCode.HOST_MEMORY}: {file.name}: its contents are not in a plain file of the host, but in {file.path}"
        for file in facts.memory_files
        if file.path is not None and not Path(file.path).is_file()
    ]


def with_expanded_cpu(facts: VmFacts, live: VmFacts) -> VmFacts:
    """The facts of a migratable XML with the CPU that the guest has. That XML calls a host's model by its mode only;
    what it was made of stands in the live XML alone.
    """
    if facts.cpu.mode is not CpuMode.HOST_MODEL or live.cpu.mode is not CpuMode.CUSTOM:
        return facts
    return replace(facts, cpu=live.cpu.model_copy(update={"mode": CpuMode.HOST_MODEL}))


def with_medium_blockers(facts: VmFacts, found: Mapping[str, str]) -> VmFacts:
    """The facts with what else, by target, speaks against a medium and not against its drive."""
    drives = (
        replace(drive, medium_blockers=(*drive.medium_blockers, found[drive.target]))
        if drive.target in found
        else drive
        for drive in facts.drives
    )
    return replace(facts, drives=tuple(drives))


def lasting_xml(domain: LibvirtDomain) -> str | None:
    """How a lasting VM will be after its next start; None for a transient one. Blocking. Raises libvirt's errors."""
    if not domain.isPersistent():
        return None
    return domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)


def domain_xmls(domain: LibvirtDomain) -> tuple[str, ...]:
    """A VM's XML as it runs, and as it will run after its next start. Blocking. Raises libvirt's errors."""
    if not domain.isActive():
        return (domain.XMLDesc(0),)
    lasting = (domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE),) if domain.isPersistent() else ()
    return (domain.XMLDesc(0), *lasting)


def volume_path(connection: LibvirtConnection, pool: str, volume: str) -> str | None:
    """Where a volume of a storage pool lies; None where there is no such pool or volume.

    Blocking. Raises libvirt's errors, also for a pool that is not active: what is not known is not "nothing".
    """
    try:
        return connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path()
    except libvirt.libvirtError as error:
        if error.get_error_code() in {libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL}:
            return None
        raise


def files_in_use(connection: LibvirtConnection, besides: UUID | None) -> dict[str, str]:
    """Which files each VM of the host has, but one, by the VM's name.

    Blocking. Raises `HypervisorError` for a VM whose QEMU hangs, and libvirt's errors.

    Of a definition that cannot be read, every path that stands in its text counts: too many rather than too few.
    """
    found: dict[str, str] = {}
    for domain in connection.listAllDomains():
        if UUID(domain.UUIDString()) == besides:
            continue
        try:
            # A VM that hangs may have any file: nothing can be put away, but that is said soon, and by its name.
            wait_until_free(domain, BUSY_WITHIN_S)
            xmls = domain_xmls(domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            continue  # it ended meanwhile, and has nothing in use
        for xml in xmls:
            for path in _files_of(connection, xml):
                found.setdefault(path, domain.name())
    return found


def _files_of(connection: LibvirtConnection, xml: str) -> tuple[str, ...]:
    try:
        return tuple(files_of(xml, lambda pool, volume: volume_path(connection, pool, volume)))
    except DomainXmlError:
        return tuple(paths_in_text(xml))


def allocated_or_zero(path: str | None) -> int:
    """A layer below a disk need not be a file, or may have no name any more: QEMU has it open, and the VM runs."""
    try:
        return disk_images.allocated_bytes(path) if path is not None else 0
    except disk_images.DiskImageError:
        return 0


def description(
    domain: LibvirtDomain, facts: VmFacts, layers: Mapping[str, tuple[LayerFacts, ...]], blockers: tuple[str, ...]
) -> VmDescription:
    """`layers` are by disk target, `blockers` what the definition does not show.

    Raises DiskImageError if a disk's own image cannot be read.
    """
    persistent = bool(domain.isPersistent())
    return facts.told(
        state=STATES.get(domain.state()[0], VmState.OTHER),
        disks=tuple(_disk(drive, layers.get(drive.target, ())) for drive in facts.drives),
        autostart=persistent and bool(domain.autostart()),
        persistent=persistent,
        besides=blockers,
    )


def _disk(drive: DiskFacts, layers: tuple[LayerFacts, ...]) -> Disk:
    if not drive.source:
        return drive.told()
    disk = drive.told(
        virtual_size_bytes=disk_images.virtual_size_bytes(drive.source, drive.format),
        allocated_bytes=disk_images.allocated_bytes(drive.source),
        beneath_bytes=sum(allocated_or_zero(layer.path) for layer in layers),
        file_bytes=disk_images.file_bytes(drive.source),
    )
    return disk.model_copy(update={"chain_depth": len(layers)})
