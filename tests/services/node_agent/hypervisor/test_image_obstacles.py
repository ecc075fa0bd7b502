"""What the images say against moving a VM: what a live copy of their contents would lose, each by name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from services.node_agent.hypervisor.image_obstacles import told_by_images
from services.node_agent.hypervisor.interface import ObstacleCode
from shared.domain import LayerFacts, describe
from tests.support.transfer_pair import DOMAIN

pytestmark = pytest.mark.servers


def qemu_img(*arguments: str | Path) -> None:
    """Run qemu-img."""
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, timeout=30, capture_output=True)


def codes(image: Path, *, image_format: str = "qcow2", layers: tuple[LayerFacts, ...] = ()) -> list[ObstacleCode]:
    """What a VM's only image says; `layers` is what libvirt knows beneath it."""
    facts = describe((DOMAIN % image).replace("type='raw'", f"type='{image_format}'"))
    assert facts.disks[0].format == image_format
    target = facts.disks[0].target
    return [each.code for each in told_by_images(facts, {target: layers} if layers else {})]


def test_snapshots_and_bitmaps_in_an_image_are_named(tmp_path: Path) -> None:
    """libvirt knows of neither where another program made them."""
    image = tmp_path / "snap.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "64M")
    assert codes(image) == []
    qemu_img("snapshot", "-c", "before-upgrade", image)
    qemu_img("bitmap", "--add", image, "backup-1")
    assert codes(image) == [ObstacleCode.INTERNAL_SNAPSHOTS, ObstacleCode.DIRTY_BITMAPS]


def test_an_external_data_file_is_named(tmp_path: Path) -> None:
    """Refused: else it would be neither put away nor erased after the port."""
    image = tmp_path / "ext.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'ext.data'},data_file_raw=on", image, "64M")
    assert codes(image) == [ObstacleCode.EXTERNAL_DATA_FILE]


def test_the_old_encryption_is_named(tmp_path: Path) -> None:
    """QEMU makes none any more, so the header is changed by hand."""
    image = tmp_path / "aes.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    with image.open("r+b") as file:
        file.seek(32)
        file.write((1).to_bytes(4, "big"))
    assert codes(image) == [ObstacleCode.DISK_ENCRYPTION]


def test_an_image_beneath_that_libvirt_does_not_use_is_named(tmp_path: Path) -> None:
    """One that it uses is an ordinary overlay."""
    base, image = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(bytes(1 << 20))
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image)
    assert codes(image) == [ObstacleCode.UNKNOWN_BACKING_FILE]
    assert codes(image, layers=(LayerFacts(str(base), "raw"),)) == []


def test_what_a_guest_writes_into_a_raw_disk_is_no_header(tmp_path: Path) -> None:
    """Nor does a missing image say anything here."""
    image = tmp_path / "guest.raw"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_img("snapshot", "-c", "one", image)
    assert codes(image, image_format="raw") == []
    assert codes(tmp_path / "none") == []
