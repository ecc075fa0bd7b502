"""Values that describe a VM and a host; parts of messages in several conversations. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from shared.messages.base import Bytes, Count, Text, Value
from shared.messages.host import DeviceOffers, FirmwareOffer, HugePages
from shared.messages.lanes import LaneEndpoint
from shared.parties import Name

MacAddress = Annotated[str, Field(pattern=r"^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$")]
DiskTarget = Annotated[
    str, Field(pattern=r"^[a-z]{2,4}[a-z]$", description="Device name inside the domain, such as vda.")
]
DomainXml = Annotated[str, Field(max_length=1_000_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class VmState(StrEnum):
    """The run state that libvirt reports, as far as a port cares."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUT_OFF = "shut_off"
    CRASHED = "crashed"
    OTHER = "other"


class Firmware(StrEnum):
    """What boots the VM."""

    BIOS = "bios"
    UEFI = "uefi"
    DIRECT_KERNEL = "direct_kernel"


class Disk(Value):
    """A block device of the VM, as its donor sees it."""

    target: DiskTarget
    bus: Text
    format: Text = Field(description="Image format: raw or qcow2.")
    virtual_size_bytes: Bytes
    allocated_bytes: Bytes
    beneath_bytes: Bytes = Field(
        default=0,
        description="Allocated to the images that it lies on; they are moved, too, if it becomes a whole disk.",
    )
    read_only: bool = False


class Nic(Value):
    """A network card of the VM."""

    mac: MacAddress
    model: Text
    bridge: Text = Field(description="The donor's bridge; the recipient maps it to one of its own.")


class VmDescription(Value):
    """A VM's identity and shape, read from libvirt."""

    uuid: UUID
    name: Text
    state: VmState
    memory_bytes: Bytes
    vcpus: int = Field(ge=1, le=4096)
    architecture: Text
    machine: Text = Field(description="Versioned machine type, such as pc-q35-10.0.")
    cpu_model: Text
    domain_type: Text = Field(description="kvm, or qemu under software emulation.")
    firmware: Firmware
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    autostart: bool
    persistent: bool
    blockers: tuple[Text, ...] = Field(
        default=(), description="What cannot be ported: passthrough devices, shared disks, vTPM, snapshots …"
    )


class VmSummary(Value):
    """One VM in a node's inventory."""

    uuid: UUID
    name: Text
    state: VmState
    memory_bytes: Bytes
    vcpus: Count
    disk_bytes: Bytes
    macs: tuple[MacAddress, ...] = ()


class HypervisorVersions(Value):
    """What a node runs; compared before anything moves."""

    qemu: tuple[int, int, int]
    libvirt: tuple[int, int, int]
    kernel: Text = ""
    host_cpu: Text = Field(
        default="",
        description="Digest of the host's own CPU as libvirt and QEMU see it: two hosts with one digest are equal for"
        " a guest that has the host's CPU. Empty where it is not known.",
    )


class IdentityBundle(Value):
    """All that a VM must keep when it moves: its description and the XML that it was read from."""

    vm: VmDescription
    domain_xml: DomainXml = Field(description="Migratable live XML at the donor.")
    domain_xml_sha256: Sha256
    versions: HypervisorVersions
    node: Name
    lane: LaneEndpoint = Field(description="How that node proves itself on the lanes.")


class HostPlatform(Value):
    """What a host can run."""

    architecture: Text
    versions: HypervisorVersions
    accelerators: tuple[Text, ...] = Field(description="Domain types that work here: kvm, qemu.")
    machines: tuple[Text, ...]
    cpu_models: tuple[Text, ...] = Field(description="CPU models usable on this host, the host's own first.")
    firmwares: tuple[Firmware, ...]
    bridges: tuple[Text, ...]
    disk_formats: tuple[Text, ...]
    machine_aliases: dict[Text, Text] = Field(
        default_factory=dict, max_length=256, description="Aliases, such as q35, and the machine that each means here."
    )
    deprecated_machines: tuple[Text, ...] = Field(
        default=(), max_length=1024, description="Machines of this host that a later QEMU will not have."
    )
    device_offers: tuple[DeviceOffers, ...] = Field(default=(), max_length=64)
    firmware_offers: tuple[FirmwareOffer, ...] = Field(default=(), max_length=64, description="In order of preference.")
    huge_pages: tuple[HugePages, ...] = Field(default=(), max_length=16)
    networks: tuple[Text, ...] = Field(default=(), max_length=256, description="libvirt's networks that are active.")


class HostCapacity(Value):
    """What a host has and what is free, before reservations."""

    vcpus: Count
    memory_bytes: Bytes
    memory_free_bytes: Bytes
    disk_bytes: Bytes
    disk_free_bytes: Bytes
