"""Digests of files that do not change, kept on disk so that a file is scanned once. Blocking calls: use threads."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3

from services.node_agent.dedup.blocks import Scanned, scan, stamp_of
from services.node_agent.page_codec.contents import ID_BYTES
from services.node_agent.page_codec.digests import digests_of

_CHECKSUM_BYTES: Final = 32
_ROW_BYTES: Final = 8 + ID_BYTES


class BlockIndex:
    """Digests of files, kept in `folder` for as long as a file has the same size, time and inode."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def look_up(self, path: Path, *, limit: int) -> Scanned:
        """The file's contents, at most `limit`: from the index, or scanned and then indexed. Raises OSError."""
        info = path.stat()
        stamp = stamp_of(info)
        record = self._record_of(path)
        if (found := _read_index(record, stamp)) is not None:
            os.utime(record)
            return found
        found = replace(scan(path, limit=limit), whole=b"")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        body = stamp + found.blocks.astype("<i8").tobytes() + found.digests.astype("<u8").tobytes()
        draft = record.with_suffix(".new")
        draft.write_bytes(blake3(body).digest() + body)
        os.replace(draft, record)
        return found

    def forget(self, path: Path) -> None:
        """The file has changed: scan it again the next time."""
        self._record_of(path).unlink(missing_ok=True)

    def sweep(self, before_s: float) -> None:
        """Remove indexes that were not looked up since `before_s`, Unix time in seconds."""
        for record in self._folder.glob("*.index"):
            if record.stat().st_mtime < before_s:
                record.unlink(missing_ok=True)

    def _record_of(self, path: Path) -> Path:
        return self._folder / f"{blake3(os.fsencode(path)).hexdigest(ID_BYTES)}.index"


def _read_index(record: Path, stamp: bytes) -> Scanned | None:
    """None if it is missing, of another version of the file, or was left half written by a crash."""
    try:
        data = record.read_bytes()
    except OSError:
        return None
    body = memoryview(data)[_CHECKSUM_BYTES:]
    rows, odd = divmod(len(body) - len(stamp), _ROW_BYTES)
    if odd or rows < 0 or body[: len(stamp)] != stamp or blake3(body).digest() != data[:_CHECKSUM_BYTES]:
        return None
    border = len(stamp) + 8 * rows
    blocks = np.frombuffer(body[len(stamp) : border], dtype="<i8").astype(np.int64)
    return Scanned(blocks, digests_of(bytes(body[border:])))
