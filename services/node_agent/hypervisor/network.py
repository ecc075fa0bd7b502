"""The host's side of a guest's network: which bridges are there. Plugs nothing: libvirt does that when the guest
starts.

After a switchover nothing heroic is done: QEMU announces the guest's MAC addresses on the recipient's bridge by itself
(RARP, several rounds), which is what makes switches and the joined bridges learn the new place.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SYSFS = Path("/sys/class/net")


def existing_bridges(names: Iterable[str], sysfs: Path = SYSFS) -> tuple[str, ...]:
    """Return those of `names` that are bridges of this host now."""
    return tuple(name for name in names if (sysfs / name / "bridge").is_dir())
