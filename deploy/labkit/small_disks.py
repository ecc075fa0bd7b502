"""Small file systems under a lab's image folders and its nodes' state folders, so that a test can fill them up.

Owns the mounts (tmpfs) and the file that takes all the room; decides nothing about who gets which error.
"""

import errno
import os
from pathlib import Path

from deploy.labkit.plan import LabPlan
from deploy.labkit.processes import run

IMAGES_MIB = 1024
STATE_MIB = 384
_CHUNK_BYTES = 1 << 20
_FILLER = ".filled-by-the-lab"


def image_folder(plan: LabPlan, provider: str) -> Path:
    """Where a provider's disks are, as seen from outside its host."""
    return plan.host_dir(provider) / "var-lib-libvirt" / "images"


def state_folder(plan: LabPlan, provider: str) -> Path:
    """The `state_dir` of a provider's node agent."""
    return plan.data_dir / f"node-{provider}"


def mount(plan: LabPlan) -> None:
    """Mount what is not mounted; before the hosts are made, because a host sees only mounts that are older."""
    for provider in plan.providers:
        for folder, size_mib in ((image_folder(plan, provider), IMAGES_MIB), (state_folder(plan, provider), STATE_MIB)):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.path.ismount(folder):
                run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=755", "vmport-lab", str(folder)])


def unmount(plan: LabPlan) -> None:
    """Unmount everything below the lab's state folder, busy or not."""
    for point in mounted_below(plan.state_dir, Path("/proc/self/mountinfo").read_text(encoding="utf-8")):
        run(["umount", "--lazy", str(point)])


def mounted_below(folder: Path, mountinfo: str) -> list[Path]:
    """Mount points below a folder, the newest first; `mountinfo` is what /proc/PID/mountinfo says. Pure."""
    points = [Path(line.split()[4]) for line in mountinfo.splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(folder)]


def fill(folder: Path) -> None:
    """Take all the room that the folder's file system has. Raises `OSError` for any error but a full disk."""
    with (folder / _FILLER).open("wb", buffering=0) as handle:
        for size in (_CHUNK_BYTES, 4096):
            _write_until_full(handle.fileno(), size)


def free(folder: Path) -> None:
    """Give the room back."""
    (folder / _FILLER).unlink(missing_ok=True)


def _write_until_full(handle: int, size: int) -> None:
    while True:
        try:
            os.write(handle, bytes(size))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return
