"""What a VM is, as plain values: read by `describe`, and told to others as a `VmDescription`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from pydantic import ValidationError

from shared.domain.errors import DomainXmlError
from shared.domain.findings import Finding, FindingKind
from shared.messages.vm import CpuFacts, Disk, Firmware, FirmwareFacts, Need, Nic, Vlan, VmDescription, VmState

_SHOWN = 80


def does_not_fit(error: ValidationError, element: str = "domain") -> DomainXmlError:
    """What is wrong with a value of the definition, in a sentence that names the device, if it is one of a device."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return DomainXmlError(f"what is told of the VM does not fit: {where}: {first['msg']}", element=element)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise DomainXmlError(f"{text[:_SHOWN]!r} is not a UUID", element="uuid") from error


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """An image beneath a disk's own. `path` is None where it is not all of one plain file of its host."""

    path: str | None
    format: str


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk or drive. `source` is the path at its present host; size and allocation come from the hypervisor.

    Without a path `source` is empty: the drive has no medium, its contents are not in a file or block device, or the
    definition is one in its portable form. `layers` are the images beneath, top down. A live XML names them to the
    end, a migratable one may not: then the last one has neither path nor format, since nobody knows what it is.
    """

    target: str
    bus: str
    format: str
    source: str
    read_only: bool = False
    layers: tuple[LayerFacts, ...] = ()
    device: str = "disk"
    kind: str = "file"
    shared: bool = False
    serial: str = ""
    empty: bool = False
    medium_blockers: tuple[str, ...] = ()
    """Blockers of the VM that are gone when this drive's medium stays behind."""

    def told(
        self,
        *,
        virtual_size_bytes: int = 0,
        allocated_bytes: int = 0,
        beneath_bytes: int = 0,
        file_bytes: int = 0,
    ) -> Disk:
        """The disk as it is told to others; sizes in bytes, of which nothing is known here.

        Raises `DomainXmlError` that names the disk for a value that is not told of one.
        """
        try:
            return self._disk(virtual_size_bytes, allocated_bytes, beneath_bytes, file_bytes)
        except ValidationError as error:
            raise does_not_fit(error, f"disk {self.target[:_SHOWN]}") from error

    def _disk(self, virtual_size_bytes: int, allocated_bytes: int, beneath_bytes: int, file_bytes: int) -> Disk:
        return Disk(
            target=self.target,
            bus=self.bus,
            format=self.format,
            virtual_size_bytes=virtual_size_bytes,
            allocated_bytes=allocated_bytes,
            beneath_bytes=beneath_bytes,
            file_bytes=file_bytes if self.read_only else 0,
            read_only=self.read_only,
            device=self.device,
            kind=self.kind,
            shared=self.shared,
            serial=self.serial,
            empty=self.empty,
            chain_depth=len(self.layers),
            medium_blockers=self.medium_blockers,
        )


@dataclass(frozen=True, slots=True)
class NicFacts:
    """A network card. `bridge` is the host's side, None where the XML names none."""

    mac: str
    model: str
    bridge: str | None
    kind: str = ""
    network: str = ""
    port_group: str = ""
    vlan: Vlan | None = None
    virtualport: str = ""
    isolated: bool = False
    filter: str = ""
    has_bandwidth: bool = False

    def told(self) -> Nic:
        """The card as it is told to others. Raises `DomainXmlError` that names it for a value that is not told."""
        try:
            return self._nic()
        except ValidationError as error:
            raise does_not_fit(error, f"network card {self.mac}") from error

    def _nic(self) -> Nic:
        return Nic(
            mac=self.mac,
            model=self.model,
            bridge=self.bridge or "",
            kind=self.kind or "bridge",
            network=self.network,
            port_group=self.port_group,
            vlan=self.vlan,
            virtualport=self.virtualport,
            isolated=self.isolated,
            filter=self.filter,
            has_bandwidth=self.has_bandwidth,
        )


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """Memory of the guest that its host keeps in a file: a memory module, or what outlives a crash. QEMU's stream has
    its contents. `name` is as in `HostPlaces.memory_files`; `path` is None in a portable form.
    """

    name: str
    path: str | None
    size_bytes: int


class SecretUsage(StrEnum):
    """What a secret of libvirt is for, by libvirt's names."""

    VTPM = "vtpm"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A part of the VM that is opened with a secret of libvirt. It names the secret and never holds its value.

    `device` is ``tpm`` or ``disk vda``; `target` is the disk's, empty for a TPM. The secret is named by its UUID or by
    its usage; by neither in a portable form.
    """

    device: str
    usage: SecretUsage
    target: str = ""
    uuid: str = ""
    usage_id: str = ""


@dataclass(frozen=True, slots=True)
class VmFacts:
    """What a VM is, read from one definition. Sizes in bytes; tuples in the order of the XML."""

    uuid: str
    name: str
    virt_type: str
    arch: str
    machine: str
    memory_bytes: int
    memory_current_bytes: int
    vcpus: int
    """How many run now."""
    vcpus_max: int
    cpu_mode: str
    cpu_model: str | None
    cpu_features: tuple[str, ...]
    cpu: CpuFacts
    firmware: str
    firmware_facts: FirmwareFacts | None
    loader: str | None
    nvram: str | None
    kernel: str | None
    initrd: str | None
    needs: tuple[Need, ...] = ()
    drives: tuple[DiskFacts, ...] = ()
    """All disks and drives, also empty ones and those whose contents are in no file or block device."""
    nics: tuple[NicFacts, ...] = ()
    ports: tuple[str, ...] = ()
    """Serial ports, and consoles that are no serial port, as `HostPlaces.logs` names them: ``serial 0``."""
    memory_files: tuple[MemoryFile, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def encrypted_disks(self) -> frozenset[str]:
        """Targets of the disks that are encrypted."""
        return frozenset(use.target for use in self.secrets if use.target)

    @property
    def disks(self) -> tuple[DiskFacts, ...]:
        """The drives with a path."""
        return tuple(drive for drive in self.drives if drive.source)

    @property
    def blockers(self) -> tuple[Finding, ...]:
        """What forbids a port."""
        return tuple(finding for finding in self.findings if finding.kind is FindingKind.BLOCKS)

    def told(
        self,
        *,
        state: VmState,
        disks: tuple[Disk, ...],
        autostart: bool,
        persistent: bool,
        besides: tuple[str, ...] = (),
    ) -> VmDescription:
        """The VM as it is told to others. `besides` are blockers that the definition does not show.

        Raises `DomainXmlError` for a value that is larger than what is told of a VM.
        """
        firmware = Firmware.UEFI if self.firmware == "uefi" else Firmware.BIOS
        try:
            return VmDescription(
                uuid=_uuid(self.uuid),
                name=self.name,
                state=state,
                memory_bytes=self.memory_bytes,
                memory_current_bytes=self.memory_current_bytes,
                vcpus=self.vcpus,
                vcpus_max=self.vcpus_max,
                architecture=self.arch,
                machine=self.machine,
                cpu_model=self.cpu_model or self.cpu_mode,
                domain_type=self.virt_type,
                firmware=Firmware.DIRECT_KERNEL if self.kernel else firmware,
                firmware_facts=self.firmware_facts,
                kernel=self.kernel or "",
                initrd=self.initrd or "",
                cpu=self.cpu,
                needs=self.needs,
                disks=disks,
                memory_file_bytes=sum(file.size_bytes for file in self.memory_files),
                nics=tuple(nic.told() for nic in self.nics),
                autostart=autostart,
                persistent=persistent,
                blockers=(*(str(finding) for finding in self.blockers), *besides),
                made_anew=self._lines(FindingKind.MADE_ANEW),
                not_kept=self._lines(FindingKind.NOT_KEPT),
            )
        except ValidationError as error:
            raise does_not_fit(error) from error

    def _lines(self, kind: FindingKind) -> tuple[str, ...]:
        return tuple(f"{each.part}: {each.detail}" for each in self.findings if each.kind is kind)
