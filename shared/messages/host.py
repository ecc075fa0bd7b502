"""Values that say what one host offers to VMs: devices, firmware, huge pages. Parts of a node's heartbeat. Pure.

A heartbeat is small, so machines that offer the same are told together, and everything is bounded.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.messages.base import Bytes, Count, Value

Name = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$", description="One short line.")]
Names = Annotated[tuple[Name, ...], Field(max_length=512)]
Word = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$", description="One short line, or none.")]
HostPath = Annotated[str, Field(max_length=1024, pattern=r"^/[^\x00-\x1f\x7f]*$")]


class DeviceOffers(Value):
    """What QEMU and libvirt offer here under one accelerator, for machines that all offer the same."""

    accelerator: Name
    machines: Annotated[tuple[Name, ...], Field(max_length=1024)]
    offers: Annotated[dict[Name, Names], Field(max_length=64)] = Field(
        description="By kind, such as video or disk_bus: the values that work. A kind that is not told is not known."
    )


class OtherArchitecture(Value):
    """Guests of another architecture that the host's QEMU runs as it runs its own, such as i686 on x86_64."""

    architecture: Name
    accelerators: Names
    without: Annotated[tuple[Name, ...], Field(max_length=1024)] = Field(
        default=(), description="Machines that guests of the host's own architecture have, and these have not."
    )


class HugePages(Value):
    """Huge pages of one size."""

    size_bytes: Annotated[int, Field(ge=1, le=2**63 - 1)]
    total: Count
    free: Count


class FirmwareTarget(Value):
    """For which machines a firmware is made."""

    architecture: Name
    machines: Names = Field(description="Patterns of machine types, such as pc-q35-*.")


class FirmwareOffer(Value):
    """A firmware of this host, as its QEMU descriptor and its files say."""

    name: Name = Field(description="File name of the descriptor; the first that fits is taken.")
    description: Word = Field(default="", description="What the descriptor says that it is, for people.")
    interfaces: Names = Field(description="uefi, bios and so on.")
    device: Name = Field(description="flash or memory.")
    code: HostPath
    code_format: Name
    code_bytes: Bytes
    template: HostPath | None = Field(default=None, description="Template of the variables; None: it keeps none.")
    template_format: Name = "raw"
    template_bytes: Bytes | None = None
    targets: Annotated[tuple[FirmwareTarget, ...], Field(max_length=64)]
    features: Names = Field(description="secure-boot, requires-smm, enrolled-keys and so on.")
