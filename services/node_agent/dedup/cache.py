"""What ports of a VM leave at this node for the next one, the way home or a second attempt: for a time, within a quota.

A folder per VM, in it one per port and half, in it the rings of `page_codec.store`: at the recipient what arrived, at
the donor the memory that it sent in full; at both, what went ahead of the port's window (`seeding`). A VM's folder
serves ports of that VM only. What is too old, or the oldest when the quota is exceeded, is overwritten and removed; a
port under way keeps its own. Blocking calls: use threads.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.hypervisor import disk_images

INDEX_KEPT_S = 30 * 86_400.0
"""An index holds digests only; it goes when nobody has looked it up for so long."""


class Cache:
    """The folder `root` of one node."""

    def __init__(self, root: Path, index: BlockIndex, *, keep_s: float, quota_bytes: int) -> None:
        self._root = root
        self._index = index
        self._keep_s = keep_s
        self.quota_bytes = quota_bytes

    def folder(self, vm_uuid: UUID, port_id: UUID, half: str) -> Path:
        """Where one half of a port may put its contents."""
        return self._root / str(vm_uuid) / f"{port_id}.{half}"

    def files(self, vm_uuid: UUID, *, but: UUID) -> tuple[Path, ...]:
        """What earlier ports of this VM left, the newest first."""
        found = [path for path in (self._root / str(vm_uuid)).glob("*/*.contents") if not _is_of(path.parent, {but})]
        return tuple(sorted(found, key=lambda path: path.stat().st_mtime, reverse=True))

    def sweep(self, now_s: float, *, active: Collection[UUID]) -> int:
        """Remove what is too old or too much. `now_s` is Unix time. Returns the bytes that are left. Raises OSError."""
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
