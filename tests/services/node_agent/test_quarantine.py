"""What becomes of images of a VM that left: only files that are its own are moved, and only free ones are erased."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.quarantine import QuarantinePlan, erase, erase_folders, move_away, plan_quarantine

PORT = uuid4()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "web.raw"
    path.write_bytes(b"data")
    return path


def test_the_vms_own_image_is_moved_once(disk: Path) -> None:
    """Readable by root only; a second plan says the same, and finds it done."""
    plan = plan_quarantine([str(disk)], PORT, {})
    move_away(plan)
    move_away(plan)
    (kept,) = plan.kept
    assert Path(kept).read_bytes() == b"data"
    assert Path(kept).stat().st_mode & 0o777 == 0o600
    assert not disk.exists()
    assert plan_quarantine([str(disk)], PORT, {}) == plan


def test_a_link_is_followed_to_the_image(disk: Path) -> None:
    """The image is what holds the data; renaming the link would leave it where it is."""
    link = disk.with_name("link.raw")
    link.symlink_to(disk)
    plan = plan_quarantine([str(link)], PORT, {})
    move_away(plan)
    assert Path(plan.kept[0]).read_bytes() == b"data"
    assert not Path(plan.kept[0]).is_symlink()
    assert plan_quarantine([str(link)], PORT, {}) == plan


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_what_is_no_regular_file_is_left(tmp_path: Path, kind: str) -> None:
    """A device is not renamed: it is not the VM's, and another VM may be given it."""
    path = Path("/dev/null") if kind == "device" else tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "directory":
        path.mkdir()
    plan = plan_quarantine([str(path)], PORT, {})
    assert plan == QuarantinePlan((), (f"{path} stays where it is: it is no regular file",))


@pytest.mark.parametrize("name", ["same", "hard link"])
def test_what_another_vm_has_is_left(disk: Path, name: str) -> None:
    """Under whatever name that one has it."""
    other = disk
    if name == "hard link":
        other = disk.with_name("other.raw")
        other.hardlink_to(disk)
    plan = plan_quarantine([str(disk)], PORT, {str(other): "db", "/no/such/file": "gone"})
    assert plan.moves == ()
    assert plan.left == (f"{disk} stays where it is: VM db of this host has it, too",)


def test_free_images_are_erased_before_it_fails(disk: Path) -> None:
    """One that a VM has is not touched, and named."""
    second = disk.with_name("second.raw")
    second.write_bytes(b"data")
    with pytest.raises(DiskImageError, match="VM db has it") as failed:
        erase([str(disk), str(second)], {str(disk): "db"})
    assert failed.value.code == "disk_in_use"
    assert (disk.read_bytes(), second.exists()) == (b"data", False)
    assert erase([str(disk), str(second)], {}) == 4
    assert erase([str(disk)], {}) == 0


def test_what_the_vm_could_only_read_is_left_and_told(disk: Path) -> None:
    """A medium is of the provider's library: neither renamed nor erased, whatever else names it."""
    iso = disk.with_name("tools.iso")
    iso.write_bytes(b"CD001")
    link = disk.with_name("link.iso")
    link.symlink_to(iso)
    plan = plan_quarantine([str(disk), str(link)], PORT, {}, read_only=[str(iso), str(disk.with_name("gone.iso"))])
    move_away(plan)
    assert [moved for moved, _ in plan.moves] == [str(disk)]
    assert plan.left == (f"{iso} stays where it is: the VM could only read it",)
    assert iso.read_bytes() == b"CD001"


def test_a_folder_of_state_is_moved_and_erased_whole(tmp_path: Path) -> None:
    """A second call finds it done; nothing of it is left, and its bytes are counted."""
    folder = tmp_path / "tpm"
    (folder / "tpm2").mkdir(parents=True)
    (folder / "tpm2" / "permall").write_bytes(b"sealed")
    (folder / "tpm2" / "link").symlink_to(tmp_path)
    plan = plan_quarantine([], PORT, {}, [str(folder)])
    move_away(plan)
    move_away(plan)
    (kept,) = plan.kept_folders
    assert not folder.exists()
    assert Path(kept).stat().st_mode & 0o777 == 0o700
    assert (Path(kept) / "tpm2" / "permall").read_bytes() == b"sealed"
    assert erase_folders(plan.kept_folders) > 0
    assert erase_folders(plan.kept_folders) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_vm_that_came_back_is_left(tmp_path: Path) -> None:
    """A command that comes late finds its own folder in quarantine."""
    folder = tmp_path / "tpm"
    folder.mkdir()
    plan = plan_quarantine([], PORT, {}, [str(folder)])
    move_away(plan)
    folder.mkdir()
    move_away(plan)
    assert folder.exists()
