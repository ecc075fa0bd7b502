"""Where the host-bound parts of a VM are on the host that its definition is built for. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from shared.messages.vm import Vlan


@dataclass(frozen=True, slots=True)
class NicPlace:
    """What a network card is connected to: a bridge, a virtual network, or QEMU's own network (neither of them)."""

    bridge: str = ""
    network: str = ""
    port_group: str = ""
    vlan: Vlan | None = None
    virtualport: str = ""
    """Type of its port at the bridge, such as openvswitch; libvirt makes the port's own id."""
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class FirmwarePlace:
    """Firmware of this host, and the file for the VM's variables. Formats are raw or qcow2."""

    loader: str
    nvram: str | None = None
    loader_format: str = "raw"
    nvram_format: str = "raw"
    template: str | None = None
    """What the file for the variables is made from; None: libvirt knows it by the loader."""
    template_format: str = "raw"
    features: frozenset[str] | None = None
    """What its descriptor says of it, such as secure-boot; None: it was chosen without one."""


@dataclass(frozen=True, slots=True)
class HostPlaces:
    """All that a definition gets of its new host. Nothing else of a host can be in what is built.

    `disks` and `disk_formats` are by target device: image files, and their formats where they are not the driver's.
    `nics` are in the order of the cards. `logs` are files by device and number, such as ``serial 0``; a device without
    one gets no log.
    """

    disks: Mapping[str, str] = field(default_factory=dict)
    disk_formats: Mapping[str, str] = field(default_factory=dict)
    nics: tuple[NicPlace, ...] = ()
    emulator: str | None = None
    firmware: FirmwarePlace | None = None
    kernel: str | None = None
    initrd: str | None = None
    logs: Mapping[str, str] = field(default_factory=dict)
    memory_files: Mapping[str, str] = field(default_factory=dict)
    """Files that hold memory of the guest, by device: ``memory 0`` and so on, and ``pstore``."""
    listen: str = "127.0.0.1"
    """The address at which a VNC or SPICE server of the VM listens."""
    secrets: Mapping[str, UUID] = field(default_factory=dict)
    """libvirt's secrets at this host, by `SecretUse.device`."""
