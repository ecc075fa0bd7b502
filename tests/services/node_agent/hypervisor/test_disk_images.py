"""Disk images: sizes read from headers, exclusive creation, erasure that overwrites."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.node_agent.hypervisor.disk_images import (
    DiskImageError,
    allocated_bytes,
    create,
    erase,
    lay_on,
    remove,
    standalone_format,
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


@pytest.mark.servers
async def test_an_image_is_laid_on_another_and_taken_off_again(tmp_path: Path) -> None:
    """What it shows is the base, then nothing; the base is not written."""
    path, base = tmp_path / "d.qcow2", tmp_path / "base, with: signs.raw"
    base.write_bytes(b"base" * (MIB // 4))
    await create(str(path), "qcow2", MIB)
    await lay_on(str(path), str(base), "raw")
    assert standalone_format(str(path)) is None
    compare = ("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", str(path), str(base))
    assert await (await asyncio.create_subprocess_exec(*compare)).wait() == 0
    await lay_on(str(path), "", "")
    assert standalone_format(str(path)) == "qcow2"
    assert await (await asyncio.create_subprocess_exec(*compare)).wait() == 1
    assert base.read_bytes() == b"base" * (MIB // 4)


@pytest.mark.servers
async def test_what_cannot_be_laid_on_another_is_an_error(tmp_path: Path) -> None:
    """With the reason that qemu-img gives."""
    path = tmp_path / "d"
    path.write_bytes(b"no image")
    with pytest.raises(DiskImageError, match="qcow2"):
        await lay_on(str(path), "/base", "raw")


def test_a_header_that_is_not_qcow2_is_rejected(tmp_path: Path) -> None:
    """A raw file is no qcow2 image."""
    path = tmp_path / "d"
    path.write_bytes(bytes(512))
    with pytest.raises(DiskImageError, match="qcow2"):
        virtual_size_bytes(str(path), "qcow2")


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
