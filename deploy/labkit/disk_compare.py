"""Compares a donor's disk image with the recipient's after a port, while the guest at the recipient has gone on.

Everything must be identical bit by bit, except in the region where guestd rewrites blocks: there a block may differ if
both copies are whole, each with the contents of its version, and the recipient's version is the newer one.
"""

import errno
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.labkit.errors import LabError
from deploy.labkit.processes import run

BLOCK_BYTES = 65536
MAGIC = 0x31304B4C42504D56
_CHUNK = 1 << 20
_MASK = (1 << 64) - 1
_HEADER = struct.Struct("<QQQ")


@dataclass(frozen=True)
class Region:
    """Where on the disk guestd rewrites blocks, in bytes; an empty one for a guest that rewrites none."""

    offset: int = 0
    size: int = 0


@dataclass(frozen=True)
class Comparison:
    """The verdict. `rewritten_blocks` were written by the guest after the switchover; `differences` are offsets."""

    compared_bytes: int
    rewritten_blocks: int
    differences: tuple[int, ...]

    @property
    def identical(self) -> bool:
        """Whether nothing was lost or changed in the port."""
        return not self.differences


def block_contents(index: int, version: int) -> bytes:
    """What guestd writes as this version of a block (see `pattern_word` in deploy/guest/guestd.h)."""
    seed = index * 0xBF58476D1CE4E5B9 + version * 0x94D049BB133111EB
    words = []
    for number in range(3, BLOCK_BYTES // 8):
        mixed = ((seed + number) * 0x9E3779B97F4A7C15) & _MASK
        words.append(mixed ^ (mixed >> 29))
    return _HEADER.pack(MAGIC, index, version) + struct.pack(f"<{len(words)}Q", *words)


def block_version(index: int, block: bytes) -> int | None:
    """The version of a whole block, 0 for one that was never written, None for one that is torn or foreign."""
    if not any(block):
        return 0
    magic, written_index, version = _HEADER.unpack_from(block)
    if (magic, written_index) != (MAGIC, index) or block != block_contents(index, version):
        return None
    return int(version)


def compare(donor: Path, recipient: Path, region: Region) -> Comparison:
    """Compare two images of any format that QEMU knows. The recipient's must not be written to meanwhile."""
    with _raw(donor) as left, _raw(recipient) as right:
        return _compare_raw(left, right, region)


def _compare_raw(donor: Path, recipient: Path, region: Region) -> Comparison:
    sizes = donor.stat().st_size, recipient.stat().st_size
    if sizes[0] != sizes[1]:
        return Comparison(min(sizes), 0, (min(sizes),))
    rewritten, differences = 0, []
    with donor.open("rb") as left, recipient.open("rb") as right:
        for offset in range(0, sizes[0], _CHUNK):
            if not (_has_data(left.fileno(), offset) or _has_data(right.fileno(), offset)):
                continue  # a hole in both
            ours, theirs = os.pread(left.fileno(), _CHUNK, offset), os.pread(right.fileno(), _CHUNK, offset)
            if ours == theirs:
                continue
            for start in range(0, len(ours), BLOCK_BYTES):
                old, new = ours[start : start + BLOCK_BYTES], theirs[start : start + BLOCK_BYTES]
                if old == new:
                    continue
                if _newer(offset + start, old, new, region):
                    rewritten += 1
                else:
                    differences.append(offset + start)
    return Comparison(sizes[0], rewritten, tuple(differences))


def _has_data(handle: int, offset: int) -> bool:
    try:
        return os.lseek(handle, offset, os.SEEK_DATA) < offset + _CHUNK
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole from here to the end
            return False
        raise


def _newer(offset: int, old: bytes, new: bytes, region: Region) -> bool:
    if not region.offset <= offset < region.offset + region.size:
        return False
    index = (offset - region.offset) // BLOCK_BYTES
    before, after = block_version(index, old), block_version(index, new)
    return before is not None and after is not None and after > before


@contextmanager
def _raw(image: Path) -> Iterator[Path]:
    """The image as a raw file: itself, or a converted copy beside it for as long as it is needed."""
    shown = json.loads(run(["qemu-img", "info", "-U", "--output=json", str(image)]))
    if shown["format"] == "raw":
        yield image
        return
    if shown["format"] != "qcow2":
        raise LabError(f"{image} is {shown['format']}; raw and qcow2 images can be compared")
    copy = image.with_name(f"{image.name}.compare-{os.getpid()}")
    try:
        run(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(image), str(copy)], timeout_s=600)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
