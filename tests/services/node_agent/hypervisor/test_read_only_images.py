"""Read-only images: what is carried as a file, and files that are opened without a surprise."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.read_only_images import (
    blockers_of,
    check_stored,
    open_made,
    open_source,
    why_not_carried,
)
from shared.domain import DiskFacts


def qcow2(*, backing: int = 0, encrypted: int = 0, features: int = 0, size: int = 1 << 20) -> bytes:
    """A QCOW2 image's header, and nothing behind it."""
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, backing, 16, 16, size, encrypted, 1, 0, 0, 0, 0, 0)
    return head + struct.pack(">Q", features) + bytes(64)


def test_a_whole_file_is_carried(tmp_path: Path) -> None:
    """Raw whatever is in it, QCOW2 if it needs nothing else."""
    iso, image = tmp_path / "a.iso", tmp_path / "a.qcow2"
    iso.write_bytes(b"CD001")
    image.write_bytes(qcow2())
    assert why_not_carried(str(iso), "raw") is None
    assert why_not_carried(str(image), "qcow2") is None
    assert why_not_carried(str(image), "raw") is None


@pytest.mark.parametrize("header", [qcow2(backing=200), qcow2(encrypted=1), qcow2(features=1 << 2), b"CD001"])
def test_an_image_that_needs_more_is_refused_by_name(tmp_path: Path, header: bytes) -> None:
    """A backing file, a secret, an external data file; and what is no QCOW2 image at all."""
    image = tmp_path / "a.qcow2"
    image.write_bytes(header)
    disk = DiskFacts(target="vdb", bus="virtio", format="qcow2", source=str(image), read_only=True)
    ((target, sentence),) = blockers_of([disk]).items()
    assert target == disk.target
    assert sentence.startswith("read_only_disk: disk vdb is read-only, and ")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe is not even opened; a file that is gone is an error."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert why_not_carried(str(pipe), "raw") == "what it lies on is no regular file"
    with pytest.raises(DiskImageError):
        why_not_carried(str(tmp_path / "gone"), "raw")


def test_only_read_only_disks_are_looked_at() -> None:
    """A disk that the guest writes is copied by QEMU; an empty drive is no disk."""
    assert blockers_of([DiskFacts(target="vda", bus="virtio", format="qcow2", source="/gone")]) == {}
    assert blockers_of([DiskFacts(target="sda", bus="sata", format="raw", source="", read_only=True)]) == {}


def test_a_file_to_be_filled_is_no_link(tmp_path: Path) -> None:
    """Neither a symbolic one, nor one of two names of a file, nor of another size."""
    other, link, hard = tmp_path / "other", tmp_path / "link", tmp_path / "hard"
    other.write_bytes(bytes(10))
    os.close(open_made(str(other), 10))
    link.symlink_to(other)
    with pytest.raises(DiskImageError):
        open_made(str(link), 10)
    with pytest.raises(DiskImageError, match="no regular file of 11 bytes"):
        open_made(str(other), 11)
    os.link(other, hard)
    with pytest.raises(DiskImageError, match="second name"):
        open_made(str(hard), 10)


def test_a_source_is_a_file_of_the_agreed_size(tmp_path: Path) -> None:
    """A pipe would block, another size is another file."""
    pipe, iso = tmp_path / "pipe", tmp_path / "iso"
    os.mkfifo(pipe)
    iso.write_bytes(b"abc")
    os.close(open_source(str(iso), 3))
    for path, size in ((pipe, 0), (iso, 4), (tmp_path / "gone", 0)):
        with pytest.raises(DiskImageError):
            open_source(str(path), size)


def test_what_was_stored_is_what_was_sent(tmp_path: Path) -> None:
    """By size and digest."""
    path = tmp_path / "iso"
    path.write_bytes(b"abc")
    with path.open("rb+") as file:
        check_stored(file.fileno(), str(path), "raw", 3, hashlib.sha256(b"abc").digest())
        with pytest.raises(DiskImageError, match="SHA-256"):
            check_stored(file.fileno(), str(path), "raw", 3, hashlib.sha256(b"xyz").digest())
        with pytest.raises(DiskImageError, match="size"):
            check_stored(file.fileno(), str(path), "raw", 4, hashlib.sha256(b"abc").digest())


def test_a_hostile_image_names_no_file_of_this_host(tmp_path: Path) -> None:
    """QEMU would open its backing file, so it is refused although its digest is right."""
    path = tmp_path / "image.qcow2"
    path.write_bytes(data := qcow2(backing=80))
    with path.open("rb+") as file, pytest.raises(DiskImageError, match="needs another file"):
        check_stored(file.fileno(), str(path), "qcow2", len(data), hashlib.sha256(data).digest())
