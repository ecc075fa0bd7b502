"""Small file systems of a lab: which mounts belong to it."""

from __future__ import annotations

from pathlib import Path

from deploy.labkit.small_disks import mounted_below

MOUNTINFO = """\
22 1 0:20 / /proc rw,nosuid - proc proc rw
60 1 0:50 / /var/lib/vmport-lab/one/data/node-alpha rw - tmpfs vmport-lab rw,size=131072k
61 1 0:51 / /var/lib/vmport-lab/one/data/node-alpha/inner rw - tmpfs vmport-lab rw
62 1 0:52 / /var/lib/vmport-lab/other/data/node-alpha rw - tmpfs vmport-lab rw
"""


def test_only_mounts_below_the_labs_own_folder_are_found_the_newest_first() -> None:
    """Another lab's mounts stay, and an inner mount is undone before the one that holds it."""
    folder = Path("/var/lib/vmport-lab/one")
    assert mounted_below(folder, MOUNTINFO) == [folder / "data/node-alpha/inner", folder / "data/node-alpha"]
