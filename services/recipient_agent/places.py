"""Where the host-side parts of VMs lie on a node, as its operator says, and what was chosen for one VM. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from uuid import UUID

from services.recipient_agent.firmware_choice import ChosenFirmware
from services.recipient_agent.network_map import CardPlace, NetworkMap
from services.recipient_agent.network_terms import NOTHING_KEPT, NetworkChoice


@dataclass(frozen=True, slots=True)
class NodePlaces:
    """Where the host-side parts of VMs lie on one node."""

    image_dir: str
    emulator: str
    uefi_loader: str | None
    """The operator's own choice for VMs without secure boot; None: by the node's firmware descriptors."""
    nvram_dir: str
    boot_dirs: tuple[str, ...]
    console_log_dir: str | None
    bridges: NetworkMap

    def has_boot_file(self, path: str) -> bool:
        """Whether a kernel or initrd may be at this path here."""
        pure = PurePosixPath(path)
        return ".." not in pure.parts and any(str(parent) in self.boot_dirs for parent in pure.parents)

    def console_log(self, vm_name: str, port_id: UUID, device: str) -> str | None:
        """The log of one character device, such as ``serial 0``: no two devices of a VM have one file."""
        if self.console_log_dir is None:
            return None
        return f"{self.console_log_dir}/{file_stem(vm_name, port_id)}-{device.replace(' ', '-')}.log"


@dataclass(frozen=True, slots=True)
class HostChoice:
    """What a VM gets of its node: the builder of its definition takes it from here."""

    firmware: ChosenFirmware | None = None
    cards: tuple[CardPlace, ...] = ()
    """In the order of the VM's cards."""
    network: NetworkChoice = NOTHING_KEPT
    """How the VM keeps its addresses here."""


NOTHING_CHOSEN = HostChoice()


def file_stem(vm_name: str, port_id: UUID) -> str:
    """The part that all files of one VM and port share; the port makes it unique, the name is for people."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', vm_name)[:64]}-{port_id}"
