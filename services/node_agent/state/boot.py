"""Which boot of this host it is: what a former process left behind may have ended with the host."""

from __future__ import annotations

from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's name for this boot. Raises OSError."""
    return BOOT_ID.read_text().strip()
