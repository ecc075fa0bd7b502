"""Reads what a host can run from libvirtd, its files and /sys. Blocking; which text means what is in
`host_capabilities`, `device_offers` and `firmware_descriptors`.

libvirt answers about one machine under one accelerator in some 20 ms, and there are a hundred machines; so its answers
are kept until the version of QEMU, libvirt or the kernel changes. Bridges, networks, huge pages and firmware are read
each time: an operator changes them while the agent runs, and they cost little.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import libvirt

from services.node_agent.hypervisor import disk_images, host_capabilities
from services.node_agent.hypervisor.device_offers import offers_of, together
from services.node_agent.hypervisor.firmware_descriptors import FOLDERS, read_firmware
from services.node_agent.hypervisor.libvirt_secrets import secret_usages
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection
from shared.logs import get_logger
from shared.messages.host import DeviceOffers, OtherArchitecture
from shared.messages.vm import Firmware, HostCapacity, HostPlatform, HypervisorVersions

log = get_logger(__name__)

_RUNS_AS_WELL: Final[Mapping[str, tuple[str, ...]]] = {"x86_64": ("i686",)}
"""By a host's architecture, guests that it runs as it runs its own: devices and firmware are the same."""


class HostReader:
    """One host. Its methods may be called from several threads."""

    def __init__(
        self,
        *,
        bridges: tuple[str, ...] = (),
        accelerators: tuple[str, ...] = (),
        firmware_folders: Sequence[Path] = FOLDERS,
    ) -> None:
        """`bridges` are those that guests may use; `accelerators` narrows what libvirt claims."""
        self._bridges = bridges
        self._accelerators = accelerators
        self._firmware_folders = firmware_folders
        self._reading = threading.Lock()
        self._known: HostPlatform | None = None
        self._digest: tuple[HypervisorVersions | None, str] = (None, "")
        self._told: tuple[str, ...] = ()

    def versions(self, connection: LibvirtConnection) -> HypervisorVersions:
        """Versions, and the digest of the host's CPU. Does not wait for what takes long."""
        now = HypervisorVersions(
            qemu=host_capabilities.version_triple(connection.getVersion()),
            libvirt=host_capabilities.version_triple(connection.getLibVersion()),
            kernel=platform.release(),
        )
        before, digest = self._digest
        if before != now:
            digest = self._read_digest(connection)
            self._digest = now, digest
        return now.model_copy(update={"host_cpu": digest})

    def capacity(self, connection: LibvirtConnection, image_dir: str) -> HostCapacity:
        """The host's CPUs and memory, and the file system of `image_dir`. Raises OSError."""
        files = os.statvfs(image_dir)
        return HostCapacity(
            vcpus=int(connection.getInfo()[2]),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            memory_free_bytes=host_capabilities.available_memory_bytes(Path("/proc/meminfo").read_text()),
            disk_bytes=files.f_blocks * files.f_frsize,
            disk_free_bytes=files.f_bavail * files.f_frsize,
        )

    def _read_digest(self, connection: LibvirtConnection) -> str:
        architecture, capabilities = str(connection.getInfo()[0]), connection.getCapabilities()
        accelerators = self._usable(host_capabilities.guest_kinds(capabilities, architecture))
        general = [connection.getDomainCapabilities(None, architecture, None, each) for each in accelerators]
        return host_capabilities.host_cpu_digest(capabilities, general)

    def _usable(self, kinds: host_capabilities.GuestKinds) -> tuple[str, ...]:
        return tuple(each for each in kinds.accelerators if not self._accelerators or each in self._accelerators)

    def platform(self, connection: LibvirtConnection) -> HostPlatform:
        """All of it."""
        known = self._capabilities(connection)
        firmware = read_firmware(self._firmware_folders)
        if firmware.problems != self._told:
            self._told = firmware.problems
            for problem in firmware.problems:
                log.warning("firmware descriptor not used", reason=problem)
        kinds = known.firmwares
        if any("uefi" in offer.interfaces for offer in firmware.offers) and Firmware.UEFI not in kinds:
            kinds = (*kinds, Firmware.UEFI)
        bridges = host_capabilities.existing_bridges(self._bridges)
        switches = host_capabilities.existing_switches(self._bridges, host_capabilities.card_driver)
        return known.model_copy(
            update={
                "bridges": (*bridges, *switches),
                "ovs_bridges": switches,
                "networks": tuple(sorted(connection.listNetworks())),
                "huge_pages": host_capabilities.huge_pages(),
                "firmware_offers": firmware.offers,
                "firmwares": kinds,
                "secret_usages": secret_usages(connection),
            }
        )

    def _capabilities(self, connection: LibvirtConnection) -> HostPlatform:
        now = self.versions(connection)
        with self._reading:
            if self._known is None or self._known.versions != now:
                self._known = self._read(connection, now)
            return self._known

    def _read(self, connection: LibvirtConnection, versions: HypervisorVersions) -> HostPlatform:
        architecture = str(connection.getInfo()[0])
        capabilities = connection.getCapabilities()
        kinds = host_capabilities.guest_kinds(capabilities, architecture)
        accelerators = self._usable(kinds)
        general = [connection.getDomainCapabilities(None, architecture, None, kind) for kind in accelerators]
        models = (model for domain in general for model in host_capabilities.usable_cpu_models(domain))
        offers = [
            each
            for accelerator in accelerators
            for each in _device_offers(connection, architecture, accelerator, kinds.machines)
        ]
        return HostPlatform(
            architecture=architecture,
            versions=versions,
            accelerators=accelerators,
            machines=kinds.machines,
            cpu_models=tuple(dict.fromkeys(models)),
            firmwares=host_capabilities.firmwares(general[0]) if general else (),
            bridges=(),
            disk_formats=disk_images.FORMATS,
            machine_aliases=dict(kinds.aliases),
            deprecated_machines=kinds.deprecated,
            device_offers=tuple(offers),
            other_architectures=tuple(self._others(capabilities, kinds)),
        )

    def _others(self, capabilities: str, own: host_capabilities.GuestKinds) -> Iterator[OtherArchitecture]:
        for architecture in _RUNS_AS_WELL.get(own.architecture, ()):
            kinds = host_capabilities.guest_kinds(capabilities, architecture)
            if accelerators := self._usable(kinds):
                without = tuple(machine for machine in own.machines if machine not in kinds.machines)
                yield OtherArchitecture(architecture=architecture, accelerators=accelerators, without=without)


def _device_offers(
    connection: LibvirtConnection, architecture: str, accelerator: str, machines: Sequence[str]
) -> tuple[DeviceOffers, ...]:
    by_machine = {}
    for machine in machines:
        try:
            xml = connection.getDomainCapabilities(None, architecture, machine, accelerator)
        except libvirt.libvirtError as error:
            # A machine of the other accelerator only, or one that QEMU lists and does not run: nothing is told of it.
            log.debug("machine without capabilities", machine=machine, accelerator=accelerator, error=str(error))
            continue
        by_machine[machine] = offers_of(host_capabilities.parse_capabilities(xml))
    return tuple(together(accelerator, by_machine))
