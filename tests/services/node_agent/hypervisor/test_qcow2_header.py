"""QCOW2 headers as qemu-img writes them, and as a guest or a fault may have left them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from services.node_agent.hypervisor.qcow2_header import header_or_none, read_header

MIB = 1 << 20


def qemu_img(*arguments: str) -> None:
    """Run qemu-img."""
    subprocess.run(["qemu-img", *arguments], check=True, timeout=30, capture_output=True)


@pytest.mark.servers
def test_what_a_copy_would_lose_is_read(tmp_path: Path) -> None:
    """Internal snapshots and dirty bitmaps, which libvirt does not know of."""
    image = str(tmp_path / "snap.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", image, "64M")
    plain = read_header(image)
    assert plain is not None
    assert (plain.virtual_size_bytes, plain.internal_snapshots, plain.bitmaps) == (64 * MIB, 0, 0)
    assert (plain.backing_file, plain.encryption, plain.has_data_file, plain.data_file) == (None, 0, False, None)
    qemu_img("snapshot", "-c", "before-upgrade", image)
    qemu_img("bitmap", "--add", image, "backup-1")
    qemu_img("bitmap", "--add", image, "backup-2")
    header = read_header(image)
    assert header is not None
    assert (header.internal_snapshots, header.bitmaps) == (1, 2)


@pytest.mark.servers
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_what_lies_beneath_is_read(tmp_path: Path, compat: str) -> None:
    """Of both versions of the format; the extensions stand between header and name."""
    image, base = str(tmp_path / "top.qcow2"), tmp_path / "base.raw"
    base.write_bytes(bytes(MIB))
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"compat={compat}", "-b", str(base), "-F", "raw", image)
    header = read_header(image)
    assert header is not None
    assert (header.backing_file, header.virtual_size_bytes) == (str(base), MIB)


@pytest.mark.servers
def test_contents_in_another_file_are_seen(tmp_path: Path) -> None:
    """With the file's name."""
    image, data = str(tmp_path / "ext.qcow2"), str(tmp_path / "ext.data")
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", image, "64M")
    header = read_header(image)
    assert header is not None
    assert (header.has_data_file, header.data_file) == (True, data)


@pytest.mark.servers
def test_encryption_is_seen(tmp_path: Path) -> None:
    """LUKS inside of QCOW2."""
    image = str(tmp_path / "luks.qcow2")
    secret = ("--object", "secret,id=s,data=abc", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")
    qemu_img("create", "-q", "-f", "qcow2", *secret, image, "1M")
    header = read_header(image)
    assert header is not None
    assert header.encryption == 2


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QFI\xfb" + bytes(60), b"\0" * 4096])
def test_what_is_no_image_has_no_header(tmp_path: Path, content: bytes) -> None:
    """Empty, cut short, or raw."""
    path = tmp_path / "x"
    path.write_bytes(content)
    assert read_header(str(path)) is None
    assert header_or_none(str(tmp_path / "none")) is None
    assert header_or_none("a\0b") is None


@pytest.mark.parametrize("byte", [0xFF, 0x7F, 0x01])
def test_a_header_of_nonsense_is_read_to_its_end(tmp_path: Path, byte: int) -> None:
    """Offsets and sizes that lead nowhere name nothing."""
    path = tmp_path / "x"
    path.write_bytes(b"QFI\xfb" + (3).to_bytes(4, "big") + bytes([byte]) * 500)
    header = read_header(str(path))
    assert header is not None
    assert header.backing_file in {None, ""}
    assert header.data_file is None
