"""What a tenant is told of its own VM: a part of `VmDescription`, bounded, without what is its host's own. Pure.

Made by the donor agent (`services.donor_agent.inspection`), so that no path, digest or host's CPU leaves the provider.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from shared.messages.base import Bytes, Count, Text, Value
from shared.messages.network import MacAddress
from shared.messages.vm import CpuFeature, CpuMode, DiskTarget, Firmware, Lines, Vlan, VmState, Word

MAX_DISKS = 128
MAX_NICS = 64
MAX_CPU_FEATURES = 256
"""More are not listed one by one; `VmDetails.omitted` says how many there are besides."""

Vcpus = Annotated[int, Field(ge=1, le=4096)]


class DiskDetails(Value):
    """A disk or drive."""

    target: DiskTarget
    device: Word = Field(description="disk, cdrom, floppy or lun.")
    bus: Word
    format: Word = Field(description="Image format: raw or qcow2.")
    kind: Word = Field(description="What holds it at the provider: file, block, network, volume ...")
    size_bytes: Bytes
    read_only: bool = False
    shared: bool = False
    empty: bool = Field(default=False, description="A drive without a medium.")
    snapshots: Count = Field(default=0, description="How many internal snapshots it has.")


class NicDetails(Value):
    """A network card."""

    mac: MacAddress
    model: Word
    kind: Word = Field(description="libvirt's type: bridge, network, user, ...")
    network: Word = Field(default="", description="The network or bridge at the VM's provider; empty if none.")
    port_group: Word = ""
    vlan: Vlan | None = None


class CpuDetails(Value):
    """The VM's CPU."""

    mode: CpuMode
    model: Word = Field(default="", description="Empty where the definition names none.")
    vendor: Word = ""
    features: tuple[CpuFeature, ...] = Field(default=(), max_length=MAX_CPU_FEATURES)


class VmDetails(Value):
    """A VM as its node has just read it."""

    uuid: UUID
    name: Text
    state: VmState
    architecture: Word
    machine: Word
    domain_type: Word = Field(description="kvm, or qemu under software emulation.")
    vcpus: Vcpus = Field(description="How many it runs now; this counts for price and place.")
    vcpus_max: Vcpus = Field(description="How many may be plugged in.")
    memory_bytes: Bytes = Field(description="All that the guest may have now; this counts for price and place.")
    memory_current_bytes: Bytes = Field(description="Without what the balloon holds.")
    cpu: CpuDetails
    firmware: Firmware
    secure_boot: bool = False
    nvram: bool = Field(default=False, description="The VM has a store of UEFI variables of its own.")
    disks: tuple[DiskDetails, ...] = Field(max_length=MAX_DISKS)
    nics: tuple[NicDetails, ...] = Field(max_length=MAX_NICS)
    autostart: bool
    persistent: bool
    made_anew: Lines = Field(default=(), description="Bound to the present host; a recipient makes it again.")
    not_kept: Lines = Field(default=(), description="Bound to the present host, and not kept.")
    omitted: Lines = Field(default=(), description="What is not listed here because there is too much of it.")
