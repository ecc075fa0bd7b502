"""What an offer says of a VM's host-bound parts: kept, changed or not kept, by stable names. Pure.

The name of a line is what a tenant requires: with `--require filter` nobody offers who does not keep the card's filter.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from shared.messages.base import Value
from shared.messages.vm import Line

MAX_QUOTE_LINES = 64


class Part(StrEnum):
    """Parts of a VM that are bound to its host, as tenants name them."""

    BANDWIDTH = "bandwidth"
    """The limit of a network card's rate."""
    BRIDGE = "bridge"
    """The name of what a network card is connected to."""
    CPU = "cpu"
    DISK = "disk"
    """Where a disk lies, and how it is held."""
    DISK_LIMITS = "disk-limits"
    DISPLAY = "display"
    """Address, port and password of VNC or SPICE."""
    FILTER = "filter"
    """The network filter that guards a card."""
    FIRMWARE = "firmware"
    """The files of the firmware; its kind is always kept."""
    ISOLATED = "isolated"
    """That a card reaches no other isolated card of its bridge."""
    MACHINE = "machine"
    """How long the machine type will be there."""
    MEMORY_LIMITS = "memory-limits"
    METADATA = "metadata"
    NETWORK = "network"
    """Whether a card's addresses stay reachable, and how."""
    PERF = "perf"
    PINNING = "pinning"
    """Which CPUs of the host run the guest's."""
    PLACEMENT = "placement"
    """Which NUMA nodes of the host have the guest's memory."""
    PORT_GROUP = "port-group"
    SERIAL_LOG = "serial-log"
    """The log of a serial port or console."""
    SOUND = "sound"
    TPM = "tpm"
    VIRTUALPORT = "virtualport"
    """The profile of a card's port at a virtual switch."""
    VLAN = "vlan"
    VSOCK = "vsock"
    WEIGHTS = "weights"
    """Shares of CPU and disk time."""
    OTHER = "other"
    """What has no name of its own."""
    ALL = "all"
    """As a requirement: nothing at all may be lost. No line has this name."""


class QuoteLine(Value):
    """One part of the VM, and what becomes of it at this provider."""

    part: Part
    text: Line

    def __str__(self) -> str:
        return f"{self.part}: {self.text}"


QuoteLines = Annotated[tuple[QuoteLine, ...], Field(max_length=MAX_QUOTE_LINES)]
Requirements = Annotated[tuple[Part, ...], Field(max_length=len(Part))]
