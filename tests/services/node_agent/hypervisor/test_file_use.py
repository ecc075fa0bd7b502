"""Which files a VM uses: what its definition names, and whatever lies beneath, as the images' headers say."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from services.node_agent.hypervisor.file_use import backing_chain, files_of
from tests.support.transfer_pair import DOMAIN


def qcow2(path: Path, backing: str | None = None, size: int = 1 << 20) -> Path:
    """An image whose header is written by hand: no program checks that the backing file is there."""
    name = (backing or "").encode()
    header = b"QFI\xfb" + (3).to_bytes(4, "big") + (104 if backing else 0).to_bytes(8, "big")
    header += len(name).to_bytes(4, "big") + (16).to_bytes(4, "big") + size.to_bytes(8, "big")
    path.write_bytes(header.ljust(104, b"\0") + name)
    return path


def test_the_chain_is_read_from_the_images(tmp_path: Path) -> None:
    """Names are absolute, or relative to the image that holds them; links are followed."""
    base = tmp_path / "base.raw"
    base.write_bytes(bytes(512))
    link = tmp_path / "link.raw"
    link.symlink_to(base)
    middle = qcow2(tmp_path / "middle.qcow2", "link.raw")
    top = qcow2(tmp_path / "top.qcow2", str(middle))
    assert list(backing_chain(str(top))) == [str(middle), str(base)]


@pytest.mark.parametrize(
    "name",
    [
        json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": "/b.img"}}),
        json.dumps({"driver": "raw", "file.filename": "/b.img"}),
    ],
)
def test_a_name_as_json_is_understood(tmp_path: Path, name: str) -> None:
    """QEMU writes it so where options are needed."""
    assert list(backing_chain(str(qcow2(tmp_path / "top", f"json:{name}")))) == ["/b.img"]


@pytest.mark.parametrize("name", ["json:{", "json:[]", 'json:{"driver": "nbd"}'])
def test_what_is_no_file_of_this_host_ends_the_chain(tmp_path: Path, name: str) -> None:
    """It can neither be renamed nor erased here."""
    assert list(backing_chain(str(qcow2(tmp_path / "top", name)))) == []


def test_a_circle_ends(tmp_path: Path) -> None:
    """As libvirt's own limit has it."""
    top = qcow2(tmp_path / "a", "b")
    qcow2(tmp_path / "b", "a")
    assert set(backing_chain(str(top))) == {str(tmp_path / "a"), str(tmp_path / "b")}


def test_what_is_no_image_has_nothing_beneath(tmp_path: Path) -> None:
    """Missing, raw, or cut short."""
    (tmp_path / "short").write_bytes(b"QFI\xfb")
    for name in ("none", "short"):
        assert list(backing_chain(str(tmp_path / name))) == []


def test_qemu_writes_what_is_read_here(tmp_path: Path) -> None:
    """The header that qemu-img makes."""
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(bytes(1 << 20))
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", str(top)]
    try:
        subprocess.run(command, check=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("qemu-img is not installed")
    assert list(backing_chain(str(top))) == [str(base)]


def test_a_guest_cannot_name_files_by_a_header_in_its_raw_disk(tmp_path: Path) -> None:
    """What stands in a raw image is the guest's data; volumes of storage pools are looked up."""
    disk = qcow2(tmp_path / "web.raw", "/etc/passwd")
    volume = "<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb'/></disk><interface"
    xml = (DOMAIN % disk).replace("<interface", volume, 1)
    assert list(files_of(xml, lambda pool, name: f"/{pool}/{name}")) == [str(disk), os.path.realpath("/p/v")]
    assert list(files_of(xml, lambda _pool, _name: None)) == [str(disk)]


def test_a_definition_of_a_vm_that_is_off_is_completed(tmp_path: Path) -> None:
    """It names the top layer only."""
    disk = qcow2(tmp_path / "web.qcow2", "/base.img")
    xml = (DOMAIN % disk).replace("type='raw'", "type='qcow2'")
    assert list(files_of(xml, lambda _pool, _name: None)) == [str(disk), "/base.img"]


@pytest.mark.servers
def test_an_external_data_file_is_in_use(tmp_path: Path) -> None:
    """It holds the disk's contents, so it is not erased with another VM's image; what a guest wrote is no header."""
    image, data = tmp_path / "ext.qcow2", tmp_path / "ext.data"
    options = f"data_file={data},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(image), "1M"], check=True)
    qcow2(data, "/somebody/elses.qcow2")
    assert list(backing_chain(str(image))) == [str(data)]
