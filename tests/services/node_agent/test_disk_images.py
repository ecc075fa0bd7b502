"""Disk images: sizes read from headers, exclusive creation, erasure that overwrites."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
from pathlib import Path

import pytest

from services.node_agent.disk_images import (
    DiskImageError,
    allocated_bytes,
    create,
    create_overlay,
    erase,
    format_alone,
    remove,
    virtual_size_bytes,
)

MIB = 1 << 20


async def test_a_raw_image_is_made_sparse(tmp_path: Path) -> None:
    """It has the size that was asked for, and takes no room."""
    path = str(tmp_path / "new" / "d.raw")
    await create(path, "raw", 64 * MIB)
    assert (virtual_size_bytes(path, "raw"), allocated_bytes(path)) == (64 * MIB, 0)


@pytest.mark.servers
async def test_a_qcow2_image_has_its_virtual_size(tmp_path: Path) -> None:
    """The size is read from the header."""
    path = str(tmp_path / "d.qcow2")
    await create(path, "qcow2", 64 * MIB)
    assert virtual_size_bytes(path, "qcow2") == 64 * MIB
    assert allocated_bytes(path) < MIB


def test_a_header_that_is_not_qcow2_is_rejected(tmp_path: Path) -> None:
    """A raw file is no qcow2 image."""
    path = tmp_path / "d"
    path.write_bytes(bytes(512))
    with pytest.raises(DiskImageError, match="qcow2"):
        virtual_size_bytes(str(path), "qcow2")


def qcow2_header(*, version: int = 3, backing: int = 0, encryption: int = 0, features: int = 0) -> bytes:
    """The beginning of an image of 64 MiB."""
    return struct.pack(">4sIQIIQI36xQ", b"QFI\xfb", version, backing, 0, 16, 64 * MIB, encryption, features)


@pytest.mark.parametrize(
    ("header", "image_format"),
    [
        (b"", "raw"),
        (bytes(512), "raw"),
        (qcow2_header(), "qcow2"),
        (qcow2_header(version=2, features=1 << 2), "qcow2"),  # version 2 has no features there
        (qcow2_header(features=1 << 3 | 1 << 4), "qcow2"),
        (qcow2_header(backing=120), None),
        (qcow2_header(encryption=2), None),
        (qcow2_header(features=1 << 0), None),  # not closed in order
        (qcow2_header(features=1 << 2), None),  # data in another file
        (qcow2_header(features=1 << 40), None),
        (qcow2_header(version=4), None),
        (qcow2_header()[:60], None),
    ],
)
def test_an_image_is_known_alone_if_it_names_no_other_file(
    tmp_path: Path, header: bytes, image_format: str | None
) -> None:
    """Its format then is the one that its bytes say."""
    path = tmp_path / "d"
    path.write_bytes(header)
    assert format_alone(str(path)) == image_format


@pytest.mark.servers
async def test_an_overlay_lies_on_its_base(tmp_path: Path) -> None:
    """It names the base and its format, may be larger, and the base is as it was; it overwrites nothing."""
    base, path = tmp_path / "base", str(tmp_path / "d.qcow2")
    base.write_bytes(b"base" * 1024)
    base.chmod(0o400)
    before = base.stat()
    await create_overlay(path, 64 * MIB, base=str(base), base_format="raw")
    assert virtual_size_bytes(path, "qcow2") == 64 * MIB
    assert format_alone(path) is None
    shown = json.loads(await asyncio.to_thread(subprocess.check_output, ["qemu-img", "info", "--output=json", path]))
    assert (shown["full-backing-filename"], shown["backing-filename-format"]) == (str(base), "raw")
    assert base.read_bytes() == b"base" * 1024
    assert (before.st_mtime_ns, before.st_mode) == (base.stat().st_mtime_ns, base.stat().st_mode)
    with pytest.raises(DiskImageError) as caught:
        await create_overlay(path, 64 * MIB, base=str(base), base_format="raw")
    assert caught.value.code == "disk_exists"


async def test_the_base_of_an_overlay_is_never_probed(tmp_path: Path) -> None:
    """Without a format that is known no overlay is made."""
    with pytest.raises(DiskImageError, match="auto"):
        await create_overlay(str(tmp_path / "d"), MIB, base=str(tmp_path / "base"), base_format="auto")
    assert not (tmp_path / "d").exists()


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A path that is taken is refused with a code of its own."""
    path = tmp_path / "d"
    path.write_bytes(b"x")
    with pytest.raises(DiskImageError) as caught:
        await create(str(path), "raw", MIB)
    assert (caught.value.code, path.read_bytes()) == ("disk_exists", b"x")


async def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """Only raw and qcow2 are made."""
    with pytest.raises(DiskImageError, match="vmdk"):
        await create(str(tmp_path / "d"), "vmdk", MIB)
    assert not (tmp_path / "d").exists()


def test_erasing_counts_what_was_there(tmp_path: Path) -> None:
    """Holes are not counted; the file is gone; again is harmless."""
    path = tmp_path / "d"
    with path.open("wb") as file:
        file.write(b"secret" * 1000)
        file.truncate(64 * MIB)
    erased = erase(str(path))
    assert 6000 <= erased < MIB
    assert not path.exists()
    assert erase(str(path)) == 0


def test_erasing_touches_only_files(tmp_path: Path) -> None:
    """A device or a folder is not erased."""
    with pytest.raises(DiskImageError):
        erase(str(tmp_path))
    assert tmp_path.exists()


def test_removing_is_idempotent(tmp_path: Path) -> None:
    """A missing image is removed already."""
    path = tmp_path / "d"
    path.touch()
    assert (remove(str(path)), remove(str(path))) == (True, False)
    with pytest.raises(DiskImageError):
        allocated_bytes(str(path))
