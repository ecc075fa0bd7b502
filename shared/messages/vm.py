"""Values that describe a VM and a host; parts of messages in several conversations. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BeforeValidator, Field, ValidationInfo

from shared.messages.base import Bytes, Count, Text, Value
from shared.messages.costs import EnergyModel
from shared.messages.host import DeviceOffers, FirmwareOffer, HugePages, OtherArchitecture
from shared.messages.lanes import LaneEndpoint
from shared.messages.network import IpAddress, MacAddress, NodeNetwork, VmNetwork
from shared.parties import Name

DiskTarget = Annotated[
    str, Field(pattern=r"^[a-z]{2,4}[a-z]$", description="Device name inside the domain, such as vda.")
]
MAX_XML_CHARACTERS = 1_000_000
"""Of one domain XML in a message. What `shared.domain` reads and writes is never longer."""
DomainXml = Annotated[str, Field(max_length=MAX_XML_CHARACTERS)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MAX_LINE = 512
MAX_LINES = 200
"""What is told of one VM: so many sentences, each so long."""


def _line_that_fits(text: object, info: ValidationInfo) -> object:
    """Our own sentence is made to fit; a stranger's that does not fit stays an error (JSON mode)."""
    if not isinstance(text, str) or info.mode != "python":
        return text
    return text[:MAX_LINE].replace("\0", "\N{REPLACEMENT CHARACTER}")


def _lines_that_fit(lines: object, info: ValidationInfo) -> object:
    """Of our own sentences that are too many, the first are told, and how many there are besides."""
    if not isinstance(lines, tuple | list) or info.mode != "python" or len(lines) <= MAX_LINES:
        return lines
    return (*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more")


Line = Annotated[str, BeforeValidator(_line_that_fits), Field(max_length=MAX_LINE, pattern=r"^[^\x00]*$")]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_lines_that_fit), Field(max_length=MAX_LINES)]
Word = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$", description="One short line.")]
VlanId = Annotated[int, Field(ge=0, le=4095)]


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


class FirmwareInterface(StrEnum):
    """How the firmware's code reaches the guest."""

    PFLASH = "pflash"
    ROM = "rom"
    EFI_AUTO = "efi-auto"
    """libvirt chooses the firmware by its features."""


class CpuMode(StrEnum):
    """Where the guest's CPU comes from."""

    CUSTOM = "custom"
    HOST_MODEL = "host-model"
    HOST_PASSTHROUGH = "host-passthrough"
    MAXIMUM = "maximum"
    DEFAULT = "default"
    """The definition names no CPU; QEMU takes its own default."""


class Need(Value):
    """Something that the VM has, and that the host's QEMU and libvirt must offer."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="Such as video, disk_bus, hugepages.")]
    value: Word = Field(description="Such as qxl, scsi, 2048 KiB.")


class FirmwareFacts(Value):
    """What the recipient needs to know to choose the same kind of firmware among its own."""

    interface: FirmwareInterface
    secure_boot: bool = False
    format: Word = Field(default="raw", description="Image format of the code.")
    size_bytes: Bytes | None = Field(default=None, description="Size of the code; None where it is not known.")
    nvram: bool = Field(default=False, description="The VM has a store of UEFI variables of its own.")
    nvram_format: Word = Field(default="raw", description="Image format of the store of variables.")
    nvram_size_bytes: Bytes | None = Field(default=None, description="None where it is not known, or there is none.")


class CpuFeature(Value):
    """One feature that the VM's CPU definition names."""

    name: Word
    policy: Word = Field(description="require, disable, force, optional or forbid.")


class CpuFacts(Value):
    """The VM's CPU, as its live definition has it."""

    mode: CpuMode = CpuMode.DEFAULT
    model: Word = Field(default="", description="Empty where the definition names none.")
    vendor: Word = ""
    features: tuple[CpuFeature, ...] = Field(default=(), max_length=1024)
    expanded: str = Field(
        default="",
        max_length=65_536,
        description="The definition as libvirt's <cpu>, of carried parts only; the recipient's libvirt compares it.",
    )


class Vlan(Value):
    """VLAN tags of a network card."""

    tags: tuple[VlanId, ...] = Field(default=(), max_length=256)
    trunk: bool = False
    native: VlanId | None = Field(default=None, description="The tag that leaves untagged, on a trunk.")
    native_mode: Word = Field(default="", description="tagged or untagged, where there is a native one.")


class Disk(Value):
    """A disk or drive of the VM, as its donor sees it. An empty drive has neither size nor contents."""

    target: DiskTarget
    bus: Text
    format: Text = Field(description="Image format: raw or qcow2.")
    virtual_size_bytes: Bytes
    allocated_bytes: Bytes
    beneath_bytes: Bytes = Field(
        default=0,
        description="Allocated to the images that it lies on; they are moved, too, if it becomes a whole disk.",
    )
    read_only: bool = Field(default=False, description="A read-only disk, or a medium that is read-only.")
    file_bytes: Bytes = Field(
        default=0, description="Of a read-only disk: the size of its file, which is carried as it is."
    )
    device: Word = Field(default="disk", description="disk, cdrom, floppy or lun.")
    kind: Word = Field(default="file", description="What holds it at the donor: file, block, network, volume ...")
    shared: bool = Field(default=False, description="Other VMs may write to it at the same time.")
    serial: Word = ""
    empty: bool = Field(default=False, description="A drive without a medium.")
    snapshots: tuple[Word, ...] = Field(default=(), max_length=256, description="Names of its internal snapshots.")
    chain_depth: int = Field(default=0, ge=0, le=1000, description="How many images it lies on.")
    medium_blockers: tuple[Text, ...] = Field(
        default=(), max_length=200, description="Those blockers of the VM that are gone when its medium stays behind."
    )


class Nic(Value):
    """A network card of the VM. Cards are known by their order; two may have one MAC."""

    mac: MacAddress
    model: Text
    bridge: Text = Field(description="The donor's bridge; the recipient maps it to one of its own. Empty if none.")
    kind: Word = Field(default="bridge", description="libvirt's type: bridge, network, user, ...")
    network: Word = Field(default="", description="libvirt's virtual network at the donor, if it is on one.")
    port_group: Word = ""
    vlan: Vlan | None = None
    virtualport: Word = Field(default="", description="Type of its port at a virtual switch, such as openvswitch.")
    isolated: bool = Field(default=False, description="It reaches no other isolated card of its bridge.")
    filter: Word = Field(default="", description="The network filter that guards it at the donor.")
    has_bandwidth: bool = Field(default=False, description="Its bandwidth is limited at the donor.")


class VmDescription(Value):
    """A VM's identity and shape, read from libvirt."""

    uuid: UUID
    name: Text
    state: VmState
    memory_bytes: Bytes = Field(description="All that the guest may have now, memory plugged in later included.")
    memory_current_bytes: Bytes | None = Field(default=None, description="Without what the balloon holds; None: all.")
    vcpus: int = Field(ge=1, le=4096, description="How many it runs now.")
    vcpus_max: int | None = Field(default=None, ge=1, le=4096, description="How many may be plugged in; None: none.")
    architecture: Text
    machine: Text = Field(description="Versioned machine type, such as pc-q35-10.0.")
    cpu_model: Text
    domain_type: Text = Field(description="kvm, or qemu under software emulation.")
    firmware: Firmware
    firmware_facts: FirmwareFacts | None = Field(default=None, description="None for a VM that boots by BIOS.")
    kernel: Text = Field(default="", description="Path of the kernel that it boots directly; empty if it does not.")
    initrd: Text = Field(default="", description="Path of the initial RAM disk of that kernel.")
    cpu: CpuFacts = CpuFacts()
    needs: tuple[Need, ...] = Field(default=(), max_length=512, description="What the host must offer.")
    disks: tuple[Disk, ...]
    memory_file_bytes: Bytes = Field(default=0, description="Memory that its host keeps in files besides the disks.")
    nics: tuple[Nic, ...]
    network: VmNetwork | None = Field(default=None, description="None where nothing is known of its addresses.")
    autostart: bool
    persistent: bool
    blockers: tuple[Text, ...] = Field(
        default=(), description="What cannot be ported: passthrough devices, shared disks, snapshots …"
    )
    made_anew: Lines = Field(default=(), description="Bound to the donor's host; the recipient makes it again.")
    not_kept: Lines = Field(default=(), description="Bound to the donor's host, and not kept.")


class VmSummary(Value):
    """One VM in a node's inventory."""

    uuid: UUID
    name: Text
    state: VmState
    memory_bytes: Bytes
    vcpus: Count
    disk_bytes: Bytes
    macs: tuple[MacAddress, ...] = ()
    addresses: tuple[IpAddress, ...] = Field(
        default=(), max_length=256, description="Of its cards, as its node's operator has declared them or a port kept."
    )
    unsized_disks: tuple[Text, ...] = Field(
        default=(), description="Disks whose size is not known: they are not in disk_bytes. 'all' where none is known."
    )
    problem: Text = Field(
        default="", description="Why this VM cannot be read; then only its name, state and size in memory are known."
    )


class HypervisorVersions(Value):
    """What a node runs; compared before anything moves."""

    qemu: tuple[Count, Count, Count]
    libvirt: tuple[Count, Count, Count]
    kernel: Text = ""
    host_cpu: Text = Field(
        default="",
        description="Digest of the host's own CPU as libvirt and QEMU see it: two hosts with one digest are equal for"
        " a guest that has the host's CPU. Empty where it is not known.",
    )


class IdentityBundle(Value):
    """All that a VM must keep when it moves: its description, and its definitions, of which only what may leave the
    host is in here."""

    vm: VmDescription
    domain_xml: DomainXml = Field(description="The live definition at the donor, in its portable form.")
    domain_xml_sha256: Sha256
    lasting_xml: DomainXml | None = Field(
        default=None, description="What it will be after its next start, in its portable form; None: it is transient."
    )
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
    other_architectures: tuple[OtherArchitecture, ...] = Field(default=(), max_length=8)
    networks: tuple[Text, ...] = Field(default=(), max_length=256, description="libvirt's networks that are active.")
    ovs_bridges: tuple[Text, ...] = Field(
        default=(), max_length=256, description="Those of the bridges that are Open vSwitch's."
    )
    network: NodeNetwork = NodeNetwork()
    energy: EnergyModel | None = Field(default=None, description="None: it is not stated.")
    secret_usages: tuple[Text, ...] = Field(
        default=(), max_length=16, description="Usages of secrets that libvirt keeps here: volume, vtpm."
    )


class HostCapacity(Value):
    """What a host has and what is free, before reservations."""

    vcpus: Count
    memory_bytes: Bytes
    memory_free_bytes: Bytes
    disk_bytes: Bytes
    disk_free_bytes: Bytes
