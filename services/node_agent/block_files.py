"""Files as 4 KiB blocks, found by content: base images, disks in quarantine, what an earlier port left.

A file is read as it lies, whatever its format: QCOW2 keeps clusters uncompressed and aligned, so their contents are
blocks of the file, too. `scan` reads a whole file and skips holes and zeros, `read_piece` a part of it; `BlockIndex`
keeps the digests of files that do not change; `KnownContents` reads single blocks back, and believes none whose digest
is not the expected one. Blocking calls: use threads.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    DIGEST_BYTES,
    ID_BYTES,
    ContentMissingError,
    Numbers,
    Origin,
    Pages,
)
from services.node_agent.page_codec.known_exchange import Digests, digests_of, digests_of_pages
from services.node_agent.page_codec.store import runs

_READ_BYTES: Final = 1 << 20
_ZERO: Final = bytes(CONTENT_BYTES)
_STAMP: Final = struct.Struct("<qqQ")
STAMP_BYTES: Final = _STAMP.size
_CHECKSUM_BYTES: Final = 32
_ROW_BYTES: Final = 8 + ID_BYTES


@dataclass(frozen=True, slots=True)
class Scanned:
    """The different contents of a file, each at the first block that has it.

    `whole` are the digests uncut, DIGEST_BYTES each, or nothing where only an index was read.
    """

    blocks: NDArray[np.int64]
    digests: Digests
    whole: bytes = b""

    @classmethod
    def empty(cls) -> Scanned:
        """Of no file."""
        return cls(np.empty(0, dtype=np.int64), digests_of(b""))

    def only(self, rows: NDArray[np.bool_]) -> Scanned:
        """Some of it."""
        whole = np.frombuffer(self.whole, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        return Scanned(self.blocks[rows], self.digests[rows], whole[rows].tobytes() if self.whole else b"")

    def first(self, count: int) -> Scanned:
        """No more than so many rows."""
        return Scanned(self.blocks[:count], self.digests[:count], self.whole[: count * DIGEST_BYTES])

    def whole_digests(self) -> list[bytes]:
        """`whole`, row by row."""
        return [self.whole[at : at + DIGEST_BYTES] for at in range(0, len(self.whole), DIGEST_BYTES)]


def scan(path: Path, *, limit: int, stopped: Callable[[], bool] = lambda: False) -> Scanned:
    """Read a file; at most `limit` contents, and no further once it is `stopped`. Raises OSError."""
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
    """What tells a file from another one, and from itself when it has changed: its size, time and inode."""
    return _STAMP.pack(info.st_size, info.st_mtime_ns, info.st_ino)


class BlockIndex:
    """Digests of files, kept in `folder` for as long as a file has the same size, time and inode."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def look_up(self, path: Path, *, limit: int) -> Scanned:
        """The file's contents: remembered, or scanned and remembered. Raises OSError."""
        info = path.stat()
        stamp = stamp_of(info)
        kept = self._kept(path)
        if (found := _read_index(kept, stamp)) is not None:
            os.utime(kept)
            return found
        found = replace(scan(path, limit=limit), whole=b"")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        body = stamp + found.blocks.astype("<i8").tobytes() + found.digests.astype("<u8").tobytes()
        draft = kept.with_suffix(".new")
        draft.write_bytes(blake3(body).digest() + body)
        os.replace(draft, kept)
        return found

    def forget(self, path: Path) -> None:
        """The file is not what it was: read it again the next time."""
        self._kept(path).unlink(missing_ok=True)

    def sweep(self, before_s: float) -> None:
        """Remove what was not looked up since `before_s`, Unix time."""
        for kept in self._folder.glob("*.index"):
            if kept.stat().st_mtime < before_s:
                kept.unlink(missing_ok=True)

    def _kept(self, path: Path) -> Path:
        return self._folder / f"{blake3(os.fsencode(path)).hexdigest(ID_BYTES)}.index"


def _read_index(kept: Path, stamp: bytes) -> Scanned | None:
    """None where there is none, it is of another version of the file, or a crash left half of it."""
    try:
        data = kept.read_bytes()
    except OSError:
        return None
    body = memoryview(data)[_CHECKSUM_BYTES:]
    rows, odd = divmod(len(body) - len(stamp), _ROW_BYTES)
    if odd or rows < 0 or body[: len(stamp)] != stamp or blake3(body).digest() != data[:_CHECKSUM_BYTES]:
        return None
    border = len(stamp) + 8 * rows
    blocks = np.frombuffer(body[len(stamp) : border], dtype="<i8").astype(np.int64)
    return Scanned(blocks, digests_of(bytes(body[border:])))


class KnownContents:
    """Contents of origin KNOWN: where each number's block is. Files stay open until `close`."""

    def __init__(
        self, files: Sequence[Path], file_of: NDArray[np.int64], blocks: NDArray[np.int64], digests: Digests
    ) -> None:
        """Row n of the arrays is content n. Raises OSError."""
        self.paths = list(files)
        self._file_of = file_of
        self._blocks = blocks
        self._digests = digests
        self._files: list[int] = []
        self._given: dict[int, bytes] = {}
        self.missing: list[int] = []
        try:
            for path in files:
                self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._blocks)

    def fetch(self, numbers: Numbers) -> Pages:
        """The contents. Raises ContentMissingError for one that is not there, or not what it was.

        All such numbers of the call are in `missing` then; what is given for them (`give`) serves the next call.
        """
        wanted = numbers.astype(np.int64)
        self.missing = []
        if len(wanted) and (wanted.max() >= len(self) or not self._files):
            raise ContentMissingError(origin=Origin.KNOWN, number=int(wanted.max()))
        # Blocks of different files never follow each other: 2^40 blocks lie between.
        pages = np.zeros((len(wanted), CONTENT_BYTES), dtype=np.uint8)
        for start, end, place in runs(self._file_of[wanted] << 40 | self._blocks[wanted]):
            file, block = self._files[place >> 40], place & ((1 << 40) - 1)
            os.preadv(file, [pages[start:end].data], block * CONTENT_BYTES)  # what is short is not what it was
        found = digests_of_pages(pages)
        changed = np.flatnonzero((found != self._digests[wanted]).any(axis=1))
        for row in changed.tolist():
            given = self._given.get(int(wanted[row]))
            if given is not None:
                pages[row] = np.frombuffer(given, dtype=np.uint8)
        self.missing = sorted({int(number) for number in wanted[changed]} - self._given.keys())
        if self.missing:
            raise ContentMissingError(origin=Origin.KNOWN, number=self.missing[0])
        return pages

    def give(self, number: int, content: bytes) -> bool:
        """Take a content from elsewhere; False if it is another one."""
        fits = bool((digests_of(blake3(content).digest(ID_BYTES))[0] == self._digests[number]).all())
        if fits:
            self._given[number] = content
        return fits

    def path_of(self, number: int) -> Path:
        """The file that a content is in."""
        return self.paths[int(self._file_of[number])]

    def close(self) -> None:
        """Close the files; idempotent."""
        for file in self._files:
            os.close(file)
        self._files.clear()
