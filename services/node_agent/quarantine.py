"""Puts the images of a VM that left out of reach, and erases them later: only what is the VM's alone.

With the images go the UEFI variables, and folders of other state. A read-only disk or medium, a device, or an image
that another VM of this host has, too, is left as it is and named. Which images are meant is the journal's; this decides
about files and keeps no record.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from services.node_agent.hypervisor import disk_images
from services.node_agent.hypervisor.disk_images import DiskImageError

SUFFIX = ".quarantine"


@dataclass(frozen=True, slots=True)
class QuarantinePlan:
    """What becomes of a VM's images. `moves` are pairs of paths, from and to; `left` are sentences for an operator."""

    moves: tuple[tuple[str, str], ...]
    left: tuple[str, ...]
    folder_moves: tuple[tuple[str, str], ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """Where the images will be in quarantine."""
        return tuple(to for _, to in self.moves)

    @property
    def kept_folders(self) -> tuple[str, ...]:
        """Where the folders will be in quarantine."""
        return tuple(to for _, to in self.folder_moves)


def plan_quarantine(
    paths: Iterable[str],
    port_id: UUID,
    in_use: Mapping[str, str],
    folders: Iterable[str] = (),
    *,
    read_only: Iterable[str] = (),
) -> QuarantinePlan:
    """Decide about each image. `in_use` is what all other VMs of the host have, and which VM has it; `read_only` are
    images that the VM could only read, which are never touched. `folders` have the VM's name or UUID in theirs, so that
    no other VM has them.

    Paths are followed to the file itself. An image that is in quarantine already, or is gone, is as if it were moved
    now, so that a second call says the same. Blocking. Raises OSError.
    """
    moves: dict[str, str] = {}
    library = list(read_only)
    left = [f"{named} stays where it is: the VM could only read it" for named in library if os.path.exists(named)]
    for named in paths:
        path = os.path.realpath(named)
        target = f"{path}.{port_id}{SUFFIX}"
        if any(os.path.realpath(each) == path for each in library):
            continue
        reason = None if not os.path.exists(path) else _why_left(path, in_use)
        if reason is None:
            moves[path] = target
        else:
            left.append(f"{named} stays where it is: {reason}")
    folder_moves = tuple((folder, f"{folder}.{port_id}{SUFFIX}") for folder in folders)
    return QuarantinePlan(tuple(moves.items()), tuple(left), folder_moves)


def move_away(plan: QuarantinePlan) -> None:
    """Rename; a second call finds it done. Blocking. Raises OSError."""
    for path, target in plan.moves:
        if Path(path).exists():
            os.replace(path, target)
            os.chmod(target, 0o600)
    for path, target in plan.folder_moves:
        # With the first one in quarantine, a second one is of the VM as it came back.
        if Path(path).exists() and not Path(target).exists():
            os.replace(path, target)
            os.chmod(target, 0o700)


def erase(paths: Iterable[str], in_use: Mapping[str, str]) -> int:
    """Erase images that no VM of the host has, and return the bytes that were overwritten.

    Raises DiskImageError for the first that cannot be erased, after all others were. Blocking.
    """
    erased, failed = 0, None
    for path in paths:
        try:
            if os.path.lexists(path) and (user := _user_of(path, in_use)) is not None:
                raise DiskImageError(path, f"VM {user} has it; it is not erased", code="disk_in_use")
            erased += disk_images.erase(path)
        except DiskImageError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return erased


def erase_folders(paths: Iterable[str]) -> int:
    """Erase every file in these folders, then remove them; return the bytes that were overwritten.

    What is gone is as if it were erased now. Blocking. Raises DiskImageError, OSError.
    """
    erased = 0
    for folder in paths:
        for place, _, names in os.walk(folder):
            for name in names:
                file = os.path.join(place, name)
                # A link or a socket holds no data of its own.
                if stat.S_ISREG(os.lstat(file).st_mode):
                    erased += disk_images.erase(file)
        if os.path.lexists(folder):
            shutil.rmtree(folder)
    return erased


def _why_left(path: str, in_use: Mapping[str, str]) -> str | None:
    if not stat.S_ISREG(os.stat(path).st_mode):
        return "it is no regular file"
    user = _user_of(path, in_use)
    return f"VM {user} of this host has it, too" if user is not None else None


def _user_of(path: str, in_use: Mapping[str, str]) -> str | None:
    """Which VM has this file, under whatever name."""
    if path in in_use:
        return in_use[path]
    ours = os.stat(path, follow_symlinks=False)
    for other, user in in_use.items():
        try:
            theirs = os.stat(other)
        except OSError:
            continue
        if os.path.samestat(ours, theirs):
            return user
    return None
