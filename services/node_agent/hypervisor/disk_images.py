"""Disk images as files: sizes, creation, overlays, erasure. Runs qemu-img; chooses no paths."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from services.node_agent.hypervisor.qcow2_header import read_header
from shared.errors import VmportError

QEMU_IMG_TIMEOUT_S = 60.0
ERASE_CHUNK_BYTES = 4 << 20
FORMATS = ("raw", "qcow2")


class DiskImageError(VmportError):
    """A disk image cannot be made, read or removed."""

    code = "disk_image"

    def __init__(self, path: str, reason: str, *, code: str = "disk_image") -> None:
        self.path = path
        self.reason = reason
        self.code = code
        super().__init__(f"disk image {path}: {reason}")


def virtual_size_bytes(path: str, image_format: str) -> int:
    """Return the size that a guest sees. Reads the header itself, so a running guest's lock is no obstacle."""
    try:
        if image_format != "qcow2":
            return _length_bytes(path)
        header = read_header(path)
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error
    if header is None:
        raise DiskImageError(path, "is not a qcow2 image")
    return header.virtual_size_bytes


def allocated_bytes(path: str) -> int:
    """Return the bytes that the host spends on the image: of a block device all that it has, sparse or not."""
    try:
        info = os.stat(path)
        return _length_bytes(path) if stat.S_ISBLK(info.st_mode) else info.st_blocks * 512
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error


def file_bytes(path: str) -> int:
    """The size of the file itself. Blocking. Raises DiskImageError."""
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error


def _length_bytes(path: str) -> int:
    with open(path, "rb") as file:
        return file.seek(0, os.SEEK_END)


def standalone_format(path: str) -> Literal["raw", "qcow2"] | None:
    """Return the format of an image that needs no other file and no secret, None for one that does.

    The header alone decides, not a name: opened as raw, a guest could write a QCOW2 header that names a host's file.
    """
    try:
        header = read_header(path)
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error
    if header is None:
        return "raw"
    needs_more = header.has_backing_file or header.encryption or header.has_data_file
    return None if needs_more else "qcow2"


async def create(path: str, image_format: str, size_bytes: int) -> None:
    """Make an empty, sparse image. Raises `DiskImageError`, with code `disk_exists` where the path is taken."""
    if image_format not in FORMATS:
        raise DiskImageError(path, f"format {image_format!r} is not one of {', '.join(FORMATS)}")
    await asyncio.to_thread(create_empty, path, size_bytes if image_format == "raw" else 0)
    if image_format != "raw":
        await qemu_img(path, "create", "-q", "-f", image_format, path, str(size_bytes))


async def lay_on(path: str, base: str, base_format: str) -> None:
    """Make an empty QCOW2 image an overlay on `base`; an empty `base` undoes it. Only the image's header is written.

    Raises `DiskImageError`.
    """
    beneath = ("-F", base_format) if base else ()
    await qemu_img(path, "rebase", "-q", "-u", "-f", "qcow2", "-b", base, *beneath, path)


async def qemu_img(path: str, *arguments: str, pass_fds: Sequence[int] = ()) -> bytes:
    """What qemu-img prints; it has these descriptors. Raises `DiskImageError`."""
    try:
        process = await asyncio.create_subprocess_exec(
            "qemu-img", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
        )  # fmt: skip
    except OSError as error:
        raise DiskImageError(path, f"qemu-img cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(QEMU_IMG_TIMEOUT_S):
            printed, complaint = await process.communicate()
    except TimeoutError:
        raise DiskImageError(path, f"qemu-img took longer than {QEMU_IMG_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise DiskImageError(path, complaint.decode(errors="replace").strip() or f"exit code {process.returncode}")
    return printed


def create_empty(path: str, size_bytes: int) -> None:
    """Create a sparse file exclusively: two ports can never share one, and nothing that exists is overwritten.

    Blocking. Raises `DiskImageError`, with code `disk_exists` where the path is taken.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, size_bytes)
        finally:
            os.close(descriptor)
    except FileExistsError:
        raise DiskImageError(path, "exists already; it is not overwritten", code="disk_exists") from None
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error


def remove(path: str) -> bool:
    """Remove an image; False where it was gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error
    return True


def erase(path: str) -> int:
    """Overwrite a regular file's allocated extents with zeros, then remove it. Returns the bytes overwritten.

    Blocking. Raises DiskImageError, also for a link: what it leads to may be anybody's.
    """
    try:
        # Looked at before it is opened: to open a device or a pipe is to use it.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise DiskImageError(path, "is not a regular file; it is not erased")
        with open(path, "r+b", buffering=0, opener=_no_link) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise DiskImageError(path, "is not a regular file; it is not erased")
            erased = _overwrite(file.fileno(), info.st_size)
            os.fsync(file.fileno())
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error
    remove(path)
    return erased


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _overwrite(descriptor: int, size: int) -> int:
    zeros, erased, at = bytes(ERASE_CHUNK_BYTES), 0, 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: only holes follow
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        os.lseek(descriptor, start, os.SEEK_SET)
        left = end - start
        while left > 0:
            left -= os.write(descriptor, zeros[: min(left, ERASE_CHUNK_BYTES)])
        erased += end - start
        at = end
    return erased
