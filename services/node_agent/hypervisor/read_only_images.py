"""Images of read-only disks and inserted media, which QEMU never copies: which of them are carried, opened safely.

They are carried as files, byte for byte, so an image must be all of one regular file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable

from services.node_agent.hypervisor.disk_images import DiskImageError, standalone_format
from shared.domain import BlockerCode, DiskFacts

_READ_BYTES = 1 << 20


def why_not_carried(path: str, image_format: str) -> str | None:
    """Why an image cannot be carried as a file; None where it can. Blocking. Raises DiskImageError, as for a file that
    is gone.
    """
    try:
        # Looked at before it is opened: to open a device or a pipe is to use it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "what it lies on is no regular file"
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error
    # A raw image may begin like a QCOW2 image, which is then a disk's contents like any other.
    if image_format == "qcow2" and standalone_format(path) != "qcow2":
        return "its image needs another file or a secret, or is no qcow2 image"
    return None


def blockers_of(disks: Iterable[DiskFacts]) -> dict[str, str]:
    """By target, why a read-only disk or medium cannot be carried. Blocking. Raises DiskImageError."""
    reasons = (
        (disk.target, why_not_carried(disk.source, disk.format)) for disk in disks if disk.read_only and disk.source
    )
    return {
        target: f"{BlockerCode.READ_ONLY_DISK}: disk {target} is read-only, and {reason}"
        for target, reason in reasons
        if reason is not None
    }


def open_source(path: str, size_bytes: int) -> int:
    """Open an image of this host for reading; a descriptor. Blocking. Raises DiskImageError where it is no regular file
    of this size.
    """
    return _open(path, os.O_RDONLY, size_bytes)


def open_made(path: str, size_bytes: int) -> int:
    """Open a file that was made for an image, to fill it; a descriptor. Blocking.

    Raises DiskImageError for a link, and for what is no regular file of this size that has one name only.
    """
    file = _open(path, os.O_RDWR | os.O_NOFOLLOW, size_bytes)
    if os.fstat(file).st_nlink != 1:
        os.close(file)
        raise DiskImageError(path, "has a second name", code="read_only_disk")
    return file


def _open(path: str, flags: int, size_bytes: int) -> int:
    try:
        file = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error), code="read_only_disk") from error
    info = os.fstat(file)
    if stat.S_ISREG(info.st_mode) and info.st_size == size_bytes:
        return file
    os.close(file)
    raise DiskImageError(
        path, f"is no regular file of {size_bytes} bytes: {info.st_size} bytes are there", code="read_only_disk"
    )


def check_stored(file: int, path: str, image_format: str, size_bytes: int, sha256: bytes) -> None:
    """Have a file on its disk that was filled, and see that it is what was sent. Blocking.

    Raises DiskImageError; also for an image that names another file, which QEMU would open here.
    """
    try:
        os.fsync(file)
        info, found = os.fstat(file), _sha256(file)
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error), code="read_only_disk") from error
    if info.st_size != size_bytes or found != sha256:
        raise DiskImageError(path, "is not what the donor sent: size or SHA-256 differ", code="read_only_disk")
    if (reason := why_not_carried(path, image_format)) is not None:
        raise DiskImageError(path, reason, code="read_only_disk")


def _sha256(file: int) -> bytes:
    digest, at = hashlib.sha256(), 0
    while data := os.pread(file, _READ_BYTES, at):
        digest.update(data)
        at += len(data)
    return digest.digest()
