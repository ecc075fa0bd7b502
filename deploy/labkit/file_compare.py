"""Compares two images of a guest whose file system was written to until the switchover and after it, file by file.

For the `build` workload: every file must be identical except the object files of guestd. Those must be whole at the
recipient, where the guest wrote out what it held. At the donor the guest may have held some of their blocks in memory
at the switchover: there each block must be empty, or whole and of a version that is not newer. A log may have grown
since. Past the file system all must be identical. The donor's image is as a switchover leaves it, so a copy has its
journal replayed first.
"""

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.labkit.errors import CommandFailed
from deploy.labkit.processes import run

OBJECT_MAGIC = 0x31304A424F504D56
OBJECT_FOLDER = "var/lib/guestd/build"
LOG_FOLDER = "var/log/"
PAGE_BYTES = 4096
_HEADER = struct.Struct("<QQQQ")
_MASK = (1 << 64) - 1
_CHUNK = 1 << 20
_LINUX_REPAIRED = 1


@dataclass(frozen=True)
class FileComparison:
    """The verdict. `differences` names files, or what else is wrong; `newer_objects` the guest wrote after the port."""

    compared_files: int
    newer_objects: int
    differences: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether nothing was lost or changed in the port."""
        return not self.differences


def block_of_object(number: int, version: int, block: int) -> bytes:
    """A block of an object file, as deploy/guest/build_workload.c writes it."""
    seed = number * 0xBF58476D1CE4E5B9 + version * 0x94D049BB133111EB + block * (PAGE_BYTES // 8)
    words = []
    for index in range(4, PAGE_BYTES // 8):
        mixed = ((seed + index) * 0x9E3779B97F4A7C15) & _MASK
        words.append(mixed ^ (mixed >> 29))
    return _HEADER.pack(OBJECT_MAGIC, number, version, block) + struct.pack(f"<{len(words)}Q", *words)


def object_version(number: int, contents: bytes) -> int | None:
    """The version of a whole object file; None for one that is torn, mixed or foreign."""
    if len(contents) < PAGE_BYTES:
        return None
    version = int(_HEADER.unpack_from(contents)[2])
    blocks = 4 + (number * 7 + version * 5) % 21
    wanted = b"".join(block_of_object(number, version, block) for block in range(blocks))
    return version if contents == wanted else None


def newest_version(number: int, contents: bytes) -> int | None:
    """The newest version in an object file of which blocks may be empty; None if a block is torn or foreign."""
    newest = 0
    for at in range(0, len(contents), PAGE_BYTES):
        block = contents[at : at + PAGE_BYTES]
        if not any(block):
            continue
        if len(block) < PAGE_BYTES:
            return None
        version = int(_HEADER.unpack_from(block)[2])
        if block != block_of_object(number, version, at // PAGE_BYTES):
            return None
        newest = max(newest, version)
    return newest


def compare_trees(donor: Path, recipient: Path) -> FileComparison:
    """Compare two unpacked file systems."""
    ours, theirs = _files(donor), _files(recipient)
    objects = {name for name in ours | theirs if name.startswith(f"{OBJECT_FOLDER}/")}
    differences = [f"only in one image: {name}" for name in sorted((ours ^ theirs) - objects)]
    common = sorted((ours & theirs) - objects)
    changed = [name for name in common if _digest(donor / name) != _digest(recipient / name)]
    differences += [name for name in changed if not _has_grown(name, donor, recipient)]
    newer = 0
    for name in sorted(name for name in objects if name.endswith(".o")):
        number = int(Path(name).stem)
        after = object_version(number, (recipient / name).read_bytes()) if name in theirs else None
        before = newest_version(number, (donor / name).read_bytes()) if name in ours else 0
        if before is None or after is None or after < before:
            differences.append(f"{name}: version {before} at the donor, {after} at the recipient")
        else:
            newer += after > before
    return FileComparison(len(common) + len(objects), newer, tuple(differences))


def compare_images(donor: Path, recipient: Path, *, file_system_bytes: int) -> FileComparison:
    """Compare two raw images that begin with an ext4 file system. The recipient's guest must be frozen and paused."""
    with tempfile.TemporaryDirectory(dir=donor.parent, prefix=".compare-") as work:
        trees = []
        for name, image in (("donor", donor), ("recipient", recipient)):
            copy = Path(work) / f"{name}.img"
            run(["cp", "--sparse=always", "--reflink=auto", str(image), str(copy)], timeout_s=300)
            _replay_journal(copy)
            tree = Path(work) / name
            tree.mkdir()
            run(["debugfs", "-R", f"rdump / {tree}", str(copy)], timeout_s=600)
            copy.unlink()
            trees.append(tree)
        found = compare_trees(*trees)
        shutil.rmtree(work, ignore_errors=True)
        Path(work).mkdir(exist_ok=True)  # the context removes it
    beyond = _differences_beyond(donor, recipient, file_system_bytes)
    return FileComparison(found.compared_files, found.newer_objects, (*found.differences, *beyond))


def _replay_journal(image: Path) -> None:
    argv = ["e2fsck", "-p", str(image)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    # Preening repairs only what a replayed journal explains; anything else is a damaged file system.
    if done.returncode not in {0, _LINUX_REPAIRED}:
        raise CommandFailed(argv, code=done.returncode, output=done.stdout + done.stderr)


def _files(tree: Path) -> set[str]:
    found = set()
    for folder, folders, names in os.walk(tree):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found |= {str((Path(folder) / name).relative_to(tree)) for name in (*names, *links)}
    return found


def _digest(path: Path) -> bytes:
    if path.is_symlink():
        return os.readlink(path).encode()
    if not path.is_file():
        return str(path.lstat().st_rdev).encode()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def _has_grown(name: str, donor: Path, recipient: Path) -> bool:
    """Whether it is a log to which the guest has only added since the switchover."""
    if not name.startswith(LOG_FOLDER) or not ((donor / name).is_file() and (recipient / name).is_file()):
        return False
    return (recipient / name).read_bytes().startswith((donor / name).read_bytes())


def _differences_beyond(donor: Path, recipient: Path, start: int) -> list[str]:
    if donor.stat().st_size != recipient.stat().st_size:
        return [f"{donor.stat().st_size} bytes at the donor, {recipient.stat().st_size} at the recipient"]
    with donor.open("rb") as left, recipient.open("rb") as right:
        return [
            f"offset {offset}"
            for offset in range(start, donor.stat().st_size, _CHUNK)
            if os.pread(left.fileno(), _CHUNK, offset) != os.pread(right.fileno(), _CHUNK, offset)
        ]
