"""How large a VM's firmware is, as its guest sees it: the recipient must find one of that size. Reads headers only."""

from __future__ import annotations

from dataclasses import replace

from services.node_agent.hypervisor.disk_images import DiskImageError, virtual_size_bytes
from shared.domain import VmFacts


def with_firmware_sizes(facts: VmFacts) -> tuple[VmFacts, tuple[str, ...]]:
    """The facts with the sizes of code and variables, and a blocker for each file that cannot be read. Blocking."""
    firmware = facts.firmware_facts
    if firmware is None:
        return facts, ()
    problems: list[str] = []

    def measure(path: str | None, image_format: str) -> int | None:
        if path is None:
            return None
        try:
            return virtual_size_bytes(path, image_format)
        except DiskImageError as error:
            problems.append(f"firmware_unreadable: nobody can say which firmware fits: {error}")
            return None

    sizes = {
        "size_bytes": measure(facts.loader, firmware.format),
        "nvram_size_bytes": measure(facts.nvram, firmware.nvram_format),
    }
    return replace(facts, firmware_facts=firmware.model_copy(update=sizes)), tuple(problems)
