"""Disk images as files: sizes, creation, overlays, erasure. Runs qemu-img; chooses no paths.

Source: QEMU's docs/interop/qcow2 (the header).
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Literal

from shared.errors import VmportError

QCOW2_MAGIC = b"QFI\xfb"
QEMU_IMG_TIMEOUT_S = 60.0
ERASE_CHUNK_BYTES = 4 << 20
FORMATS = ("raw", "qcow2")
_HEADER_BYTES = 80
_MOST_NAME_BYTES = 1023
"""The longest name of a backing file."""
_EXTERNAL_DATA = 1 << 2
"""QCOW2, incompatible features: the disk's contents lie in another file."""


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
        with open(path, "rb") as file:
            if image_format == "qcow2":
                header = file.read(32)
                if header[:4] != QCOW2_MAGIC or len(header) < 32:
                    raise DiskImageError(path, "is not a qcow2 image")
                return int.from_bytes(header[24:32], "big")
            return file.seek(0, os.SEEK_END)
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error


def allocated_bytes(path: str) -> int:
    """Return the bytes that the host spends on the image."""
    try:
        return os.stat(path).st_blocks * 512
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error


def file_bytes(path: str) -> int:
    """The size of the file itself. Blocking. Raises DiskImageError."""
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error


def standalone_format(path: str) -> Literal["raw", "qcow2"] | None:
    """Return the format of an image that needs no other file and no secret, None for one that does.

    The header alone decides, not a name: opened as raw, a guest could write a QCOW2 header that names a host's file.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error
    if header[:4] != QCOW2_MAGIC:
        return "raw"
    version, backing, encrypted = (
        int.from_bytes(header[at : at + size], "big") for at, size in ((4, 4), (8, 8), (32, 4))
    )
    features = int.from_bytes(header[72:80], "big") if version >= 3 else 0
    return None if backing or encrypted or features & _EXTERNAL_DATA else "qcow2"


def backing_file(path: str) -> str | None:
    """What a QCOW2 image's header names as the image beneath, as it stands there; None for nothing.

    Also None for what is no QCOW2 image, or cannot be read. Needs no QEMU, so a lock is no obstacle.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
            at, size = int.from_bytes(header[8:16], "big"), int.from_bytes(header[16:20], "big")
            if header[:4] != QCOW2_MAGIC or at == 0 or not 0 < size <= _MOST_NAME_BYTES:
                return None
            file.seek(at)
            return file.read(size).decode(errors="surrogateescape")
    except (OSError, OverflowError, ValueError):
        return None


async def create(path: str, image_format: str, size_bytes: int) -> None:
    """Make an empty, sparse image. Raises `DiskImageError`, with code `disk_exists` where the path is taken."""
    if image_format not in FORMATS:
        raise DiskImageError(path, f"format {image_format!r} is not one of {', '.join(FORMATS)}")
    await asyncio.to_thread(_claim, path, size_bytes if image_format == "raw" else 0)
    if image_format != "raw":
        await _qemu_img(path, "create", "-q", "-f", image_format, path, str(size_bytes))


async def lay_on(path: str, base: str, base_format: str) -> None:
    """Make an empty QCOW2 image an overlay on `base`; an empty `base` undoes it. Only the image's header is written.

    Raises `DiskImageError`.
    """
    beneath = ("-F", base_format) if base else ()
    await _qemu_img(path, "rebase", "-q", "-u", "-f", "qcow2", "-b", base, *beneath, path)


async def _qemu_img(path: str, *arguments: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            "qemu-img", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise DiskImageError(path, f"qemu-img cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(QEMU_IMG_TIMEOUT_S):
            _, complaint = await process.communicate()
    except TimeoutError:
        raise DiskImageError(path, f"qemu-img took longer than {QEMU_IMG_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise DiskImageError(path, complaint.decode(errors="replace").strip() or f"exit code {process.returncode}")


def _claim(path: str, size_bytes: int) -> None:
    """Create the file exclusively: two ports can never share an image, and nothing that exists is overwritten."""
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
