"""Sizes of a VM's firmware, which its definition does not tell and a recipient's firmware must have, too."""

from __future__ import annotations

from services.node_agent.hypervisor import disk_images
from shared.messages.vm import FirmwareFacts


def with_sizes(firmware: FirmwareFacts | None, *, loader: str | None, nvram: str | None) -> FirmwareFacts | None:
    """The facts with the sizes of the files of code and variables, in bytes as the guest sees them; None where a file
    cannot be read, which a recipient refuses by name. Blocking.
    """
    if firmware is None:
        return None
    sizes = {
        "size_bytes": _size_or_none(loader, firmware.format),
        "nvram_size_bytes": _size_or_none(nvram, firmware.nvram_format),
    }
    return firmware.model_copy(update=sizes)


def _size_or_none(path: str | None, image_format: str) -> int | None:
    if path is None:
        return None
    try:
        return disk_images.virtual_size_bytes(path, image_format)
    except disk_images.DiskImageError:
        return None
