"""Base images: the same bytes in the same format are the same image, and a path comes only from the catalogue."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from services.node_agent import base_images, block_files
from services.node_agent.base_images import (
    BaseImage,
    BaseImages,
    Catalogue,
    Lower,
    identify,
    lowers_of,
    published,
)
from services.node_agent.block_files import BlockIndex
from shared.domain_xml import DiskFacts, LayerFacts

CONTENT = b"a base image" * 1000
BELOW = LayerFacts("/images/base.raw", "raw")


def disk(target: str, *layers: LayerFacts, image_format: str = "qcow2") -> DiskFacts:
    return DiskFacts(target, "virtio", image_format, f"/images/{target}", backing=layers)


@pytest.fixture
def index(tmp_path: Path) -> BlockIndex:
    return BlockIndex(tmp_path / "index")


@pytest.fixture
def catalogue(tmp_path: Path, index: BlockIndex) -> Catalogue:
    """One that has the image under another name, beside others."""
    folder = tmp_path / "base-images"
    folder.mkdir()
    (folder / "a-stranger").write_bytes(b"another one!" * 1000)
    (folder / "known").write_bytes(CONTENT)
    return Catalogue(folder, index)


@pytest.fixture
def wanted(tmp_path: Path) -> BaseImage:
    """What the donor says of its own copy."""
    path = tmp_path / "donors.raw"
    path.write_bytes(CONTENT)
    found = identify(Lower(path, "raw"), BlockIndex(tmp_path / "donors-index"))
    assert found is not None
    return found


def test_disks_on_one_file_each_can_be_overlays() -> None:
    """Those beside them that lie on nothing do not matter, whatever their format."""
    disks = [disk("vda", BELOW), disk("vdb"), disk("vdc", image_format="raw")]
    assert lowers_of(disks) == {"vda": Lower(Path("/images/base.raw"), "raw")}
    assert lowers_of(disks[1:]) == {}


@pytest.mark.parametrize(
    "other",
    [
        disk("vdb", BELOW, BELOW),
        disk("vdb", LayerFacts("", "raw")),
        disk("vdb", LayerFacts("/images/base.vmdk", "vmdk")),
        disk("vdb", BELOW, image_format="qed"),
        DiskFacts("vdb", "virtio", "qcow2", "/images/vdb"),
    ],
    ids=["two layers", "no file", "format below", "format", "unknown"],
)
def test_one_disk_that_cannot_be_an_overlay_makes_all_whole(other: DiskFacts) -> None:
    """libvirt copies top layers of all disks or of none: this one would come without what lies below."""
    assert lowers_of([disk("vda", BELOW), other]) == {}


def test_an_image_is_its_bytes_its_size_and_its_format(wanted: BaseImage) -> None:
    """The digest is of all of it."""
    assert wanted == BaseImage(blake3=blake3(CONTENT).hexdigest(), size_bytes=len(CONTENT), format="raw")


def test_the_catalogue_finds_an_image_by_what_it_is(catalogue: Catalogue, wanted: BaseImage) -> None:
    """Whatever its name is; other bytes, another size and another format are other images."""
    assert catalogue.find(wanted) == catalogue.folder / "known"
    assert catalogue.find(wanted.model_copy(update={"blake3": "0" * 64})) is None
    assert catalogue.find(wanted.model_copy(update={"size_bytes": 1})) is None
    assert catalogue.find(wanted.model_copy(update={"format": "qcow2"})) is None


def test_an_image_that_changed_is_another_one(catalogue: Catalogue, wanted: BaseImage) -> None:
    """One byte is enough, also after it was found."""
    path = catalogue.folder / "known"
    assert catalogue.find(wanted) == path
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"!")
    assert catalogue.find(wanted) is None


def test_only_plain_files_of_the_catalogue_are_found(catalogue: Catalogue, wanted: BaseImage, tmp_path: Path) -> None:
    """A link and a file elsewhere are not published, though their bytes are the right ones."""
    path = catalogue.folder / "known"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    (catalogue.folder / "folder").mkdir()
    assert catalogue.find(wanted) is None
    assert published(catalogue.folder) == [catalogue.folder / "a-stranger"]
    assert published(catalogue.folder / "none") == published(None) == []


def test_an_image_that_is_read_otherwise_than_it_says_is_none(tmp_path: Path, index: BlockIndex) -> None:
    """A guest could otherwise have written a header that makes another host's QEMU open files."""
    path = tmp_path / "image"
    path.write_bytes(b"QFI\xfb" + bytes(508))
    assert identify(Lower(path, "raw"), index) is None
    assert identify(Lower(path, "qcow2"), index) is None
    assert identify(Lower(tmp_path, "raw"), index) is None


async def test_what_was_read_ahead_is_not_read_again(
    catalogue: Catalogue, wanted: BaseImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ports only look up what is remembered."""
    lower = Lower(tmp_path / "donors.raw", "raw")
    bases = BaseImages(catalogue.folder, catalogue.index)
    await bases.read_published()
    await bases.read_ahead([lower.path, tmp_path / "gone"])
    monkeypatch.setattr(block_files, "_whole_digest", lambda _: pytest.fail("an image is read again"))
    assert await bases.find({"vda": wanted}) == {"vda": catalogue.folder / "known"}
    assert await bases.identify({"vda": lower}) == {"vda": wanted}
    bases.close()


async def test_an_image_that_takes_too_long_is_known_the_next_time(
    catalogue: Catalogue, wanted: BaseImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port goes on without it, and so does the reading."""
    go_on = threading.Event()
    read = block_files._whole_digest

    def read_slowly(path: Path) -> bytes:
        assert go_on.wait(10)
        return read(path)

    monkeypatch.setattr(block_files, "_whole_digest", read_slowly)
    monkeypatch.setattr(base_images, "KNOWN_WITHIN_S", 0.05)
    bases = BaseImages(catalogue.folder, catalogue.index)
    assert await bases.find({"vda": wanted}) == {}
    go_on.set()
    monkeypatch.setattr(base_images, "KNOWN_WITHIN_S", 10)
    assert await bases.find({"vda": wanted}) == {"vda": catalogue.folder / "known"}
    bases.close()


def test_an_image_that_cannot_be_read_hides_no_other(
    catalogue: Catalogue, wanted: BaseImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one may be it."""
    (catalogue.folder / "a-stranger").write_bytes(bytes(len(CONTENT)))
    read = block_files._whole_digest

    def bad_sector(path: Path) -> bytes:
        if path.name == "a-stranger":
            raise OSError(5, os.strerror(5))
        return read(path)

    monkeypatch.setattr(block_files, "_whole_digest", bad_sector)
    assert catalogue.find(wanted) == catalogue.folder / "known"
