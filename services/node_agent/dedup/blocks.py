"""Files as 4 KiB blocks, found by content: base images, disks in quarantine, what an earlier port left.

A file is read as raw bytes, whatever its format: QCOW2 keeps clusters uncompressed and aligned, so the contents of the
disk in it are blocks of the file as well. `scan` reads a whole file and skips holes and zeros, `read_piece` reads a
part. `block_index` keeps the digests of files that do not change; `known_blocks` reads single blocks back and verifies
each by its digest. Calls block: use threads.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    DIGEST_BYTES,
    ID_BYTES,
)
from services.node_agent.page_codec.digests import Digests, digests_of

_READ_BYTES: Final = 1 << 20
_ZERO: Final = bytes(CONTENT_BYTES)
_STAMP: Final = struct.Struct("<qqQ")
STAMP_BYTES: Final = _STAMP.size


@dataclass(frozen=True, slots=True)
class Scanned:
    """The distinct contents of a file: row n of `blocks` (int64) is the first block with the content of `digests[n]`.

    `whole` are the full digests, DIGEST_BYTES each; empty if only an index was read.
    """

    blocks: NDArray[np.int64]
    digests: Digests
    whole: bytes = b""

    @classmethod
    def empty(cls) -> Scanned:
        """No contents: of a file that is empty or cannot be read."""
        return cls(np.empty(0, dtype=np.int64), digests_of(b""))

    def only(self, rows: NDArray[np.bool_]) -> Scanned:
        """The rows for which `rows` (bool, one per row) is true."""
        whole = np.frombuffer(self.whole, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        return Scanned(self.blocks[rows], self.digests[rows], whole[rows].tobytes() if self.whole else b"")

    def first(self, count: int) -> Scanned:
        """The first `count` rows."""
        return Scanned(self.blocks[:count], self.digests[:count], self.whole[: count * DIGEST_BYTES])

    def whole_digests(self) -> list[bytes]:
        """`whole`, row by row."""
        return [self.whole[at : at + DIGEST_BYTES] for at in range(0, len(self.whole), DIGEST_BYTES)]


def scan(path: Path, *, limit: int, stopped: Callable[[], bool] = lambda: False) -> Scanned:
    """Read a file: at most `limit` distinct contents, and no further once `stopped()` is true. Raises OSError."""
    seen: set[bytes] = set()
    blocks: list[int] = []
    digests: list[bytes] = []
    with open(path, "rb", buffering=0) as file:
        for block, content in _contents(file.fileno()):
            digest = blake3(content).digest()
            if digest in seen:
                continue
            seen.add(digest)
            blocks.append(block)
            digests.append(digest)
            if len(blocks) >= limit or stopped():
                break
    whole = b"".join(digests)
    cut = np.frombuffer(whole, dtype=np.uint8).reshape(-1, DIGEST_BYTES)[:, :ID_BYTES]
    return Scanned(np.array(blocks, dtype=np.int64), digests_of(cut.tobytes()), whole)


def _contents(file: int) -> Iterator[tuple[int, bytes]]:
    """Whole blocks that are not zero, with their places."""
    for start, end in _extents(file):
        at = start
        while at < end:
            data = os.pread(file, min(_READ_BYTES, end - at), at)
            if not data:
                return
            for offset in range(0, len(data) - CONTENT_BYTES + 1, CONTENT_BYTES):
                content = data[offset : offset + CONTENT_BYTES]
                if content != _ZERO:
                    yield (at + offset) // CONTENT_BYTES, content
            at += max(len(data) // CONTENT_BYTES * CONTENT_BYTES, CONTENT_BYTES)


def read_piece(path: Path, at: int, size: int) -> tuple[int, bytes]:
    """The next whole blocks of a file at or after a block's offset, at most `size` bytes, and where to go on.

    Holes are skipped; no bytes mean the end. It opens the file each time, so nothing is held between calls. Raises
    OSError.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = os.lseek(file, 0, os.SEEK_END)
        while at < end:
            try:
                at = os.lseek(file, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # only a hole follows
                    raise
                break
            at -= at % CONTENT_BYTES
            hole = os.lseek(file, at, os.SEEK_HOLE)
            data = os.pread(file, min(size, hole + -hole % CONTENT_BYTES - at), at)
            whole = len(data) - len(data) % CONTENT_BYTES
            at += max(whole, CONTENT_BYTES)
            if whole:
                return at, data[:whole]
    finally:
        os.close(file)
    return at, b""


def _extents(file: int) -> Iterator[tuple[int, int]]:
    """Where the file may have data, on block borders."""
    size = os.lseek(file, 0, os.SEEK_END)
    at = 0
    while at < size:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError:
            return  # ENXIO: only a hole follows
        start -= start % CONTENT_BYTES
        end = min(size, end + -end % CONTENT_BYTES)
        yield max(start, at), end
        at = end


def stamp_of(info: os.stat_result) -> bytes:
    """Size, modification time and inode: they differ if it is another file, or another version of the file."""
    return _STAMP.pack(info.st_size, info.st_mtime_ns, info.st_ino)
