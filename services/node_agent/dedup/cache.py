"""Contents that a port leaves at this node for the VM's next port (a return port or a second attempt).

They are kept for a time and within a quota. There is a folder per VM, in it one per port and side, in it the ring files
of `page_codec.store`: at the recipient what arrived, at the donor the memory that it sent in full, at both what seeding
sent. A VM's folder serves ports of that VM only. What is too old, and the oldest when the quota is exceeded, is
overwritten and removed; an active port keeps its own. Calls block: use threads.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.hypervisor import disk_images

INDEX_KEPT_S = 30 * 86_400.0
"""An index holds digests only; it is removed when it was not looked up for this long."""


class Cache:
    """One node's cache, in the folder `root`."""

    def __init__(self, root: Path, index: BlockIndex, *, keep_s: float, quota_bytes: int) -> None:
        self._root = root
        self._index = index
        self._keep_s = keep_s
        self.quota_bytes = quota_bytes

    def folder(self, vm_uuid: UUID, port_id: UUID, side: str) -> Path:
        """Where one side of a port (`sent`, `received`, `seed`) stores its contents."""
        return self._root / str(vm_uuid) / f"{port_id}.{side}"

    def files(self, vm_uuid: UUID, *, other_than: UUID) -> tuple[Path, ...]:
        """Files that earlier ports of this VM left, the newest first; without those of port `other_than`."""
        of_vm = (self._root / str(vm_uuid)).glob("*/*.contents")
        found = [path for path in of_vm if not _is_of(path.parent, {other_than})]
        return tuple(sorted(found, key=lambda path: path.stat().st_mtime, reverse=True))

    def sweep(self, now_s: float, *, active: Collection[UUID]) -> int:
        """Remove what is too old or over the quota. Returns the bytes that stay. `now_s`: Unix time. Raises OSError."""
        folders = [(_age_of(path), path) for path in self._root.glob("*/*") if path.is_dir()]
        left = 0
        for written_s, path in sorted(folders, reverse=True):
            size = sum(file.stat().st_blocks * 512 for file in path.iterdir())
            too_old = now_s - written_s > self._keep_s
            if not _is_of(path, active) and (too_old or left + size > self.quota_bytes):
                self._erase(path)
            else:
                left += size
        self._index.sweep(now_s - INDEX_KEPT_S)
        return left

    def _erase(self, folder: Path) -> None:
        for file in folder.iterdir():
            self._index.forget(file)
            disk_images.erase(str(file))
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _age_of(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def _is_of(folder: Path, ports: Collection[UUID]) -> bool:
    return folder.name.partition(".")[0] in {str(port) for port in ports}
