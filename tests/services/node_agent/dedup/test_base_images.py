"""Base images: known by content, read once, found only where they are published."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from services.node_agent.dedup import base_images
from services.node_agent.dedup.base_images import BaseImage, BaseImages, ImageReader, OverlaysWanted, published
from shared.domain import LayerFacts

CONTENT = b"a base image" * 1000
IMAGE = BaseImage(blake3=blake3(CONTENT).hexdigest(), size_bytes=len(CONTENT), format="raw")


def qcow2(*, backing: int = 0, encrypted: int = 0, features: int = 0, version: int = 3) -> bytes:
    """A header."""
    fields = ((b"QFI\xfb", 4), (version, 4), (backing, 8), (0, 4), (16, 4), (1 << 20, 8), (encrypted, 4))
    start = b"".join(value if isinstance(value, bytes) else value.to_bytes(size, "big") for value, size in fields)
    return start.ljust(72, b"\0") + features.to_bytes(8, "big")


@pytest.fixture
def images(tmp_path: Path) -> BaseImages:
    """Of a node that has read nothing yet."""
    return BaseImages(tmp_path / "indexes")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image in a catalogue."""
    path = tmp_path / "catalogue" / "debian.raw"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def same_stamp(path: Path, content: bytes) -> None:
    """Change a file in a way that only reading it shows."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_image_is_known_by_its_content(images: BaseImages, image: Path) -> None:
    """Digest of the whole file, size and format; the name counts for nothing."""
    assert images.look_up(image) == IMAGE
    assert images.look_up(image.rename(image.with_name("other"))) == IMAGE


def test_an_image_that_did_not_change_is_read_once(images: BaseImages, image: Path) -> None:
    """Also by the next process; one that changed is read again."""
    images.look_up(image)
    same_stamp(image, CONTENT[::-1])
    assert images.look_up(image) == IMAGE
    assert BaseImages(images._folder).look_up(image) == IMAGE
    image.write_bytes(CONTENT[::-1])
    os.utime(image, ns=(1, 1))
    changed = images.look_up(image)
    assert changed is not None
    assert blake3(CONTENT[::-1]).hexdigest() == changed.blake3


def test_a_damaged_note_is_not_believed(images: BaseImages, image: Path) -> None:
    """The image is read again."""
    images.look_up(image)
    (note,) = images._folder.iterdir()
    note.write_bytes(note.read_bytes()[:-1])
    assert images.look_up(image) == IMAGE


@pytest.mark.parametrize(
    ("header", "image_format"),
    [
        (qcow2(), "qcow2"),
        (qcow2(version=2, features=4), "qcow2"),  # version 2 has no features
        (qcow2(features=1), "qcow2"),  # dirty
        (qcow2(backing=200), None),
        (qcow2(encrypted=1), None),
        (qcow2(features=4), None),  # external data file
        (b"", "raw"),
        (b"QFI", "raw"),
    ],
)
def test_only_what_stands_alone_is_a_base(
    images: BaseImages, image: Path, header: bytes, image_format: str | None
) -> None:
    """An image that leads to another file is none; what looks like QCOW2 is never taken as raw."""
    image.write_bytes(header)
    found = images.look_up(image)
    assert image_format == (found.format if found else None)


def test_what_lies_beneath_the_disks(images: BaseImages, image: Path) -> None:
    """One image under each overlay is what the recipient is asked for."""
    layers = {"vda": (LayerFacts(str(image), "raw"),), "vdb": (LayerFacts(str(image), "raw"),)}
    assert OverlaysWanted(bases={"vda": IMAGE, "vdb": IMAGE}) == images.beneath(layers)


@pytest.mark.parametrize("odd", ["two layers", "no file", "other format"])
def test_one_disk_that_cannot_be_asked_for_keeps_all_whole(images: BaseImages, image: Path, odd: str) -> None:
    """All or none: the hypervisor copies the top layers of all disks, or all disks whole."""
    good = LayerFacts(str(image), "raw")
    bad = {
        "two layers": (LayerFacts(str(image), "raw"), good),
        "no file": (LayerFacts(None, "raw"),),
        "other format": (LayerFacts(str(image), "qcow2"),),
    }[odd]
    assert images.beneath({"vda": (good,), "vdb": bad}) is None
    assert images.beneath({}) is None


def test_a_missing_base_is_an_error(images: BaseImages, image: Path) -> None:
    """It is not taken for one that stands alone."""
    with pytest.raises(Exception, match="No such file"):
        images.beneath({"vda": (LayerFacts(f"{image}.gone", "raw"),)})


def test_the_catalogue_is_searched_by_content(images: BaseImages, image: Path) -> None:
    """The path is the catalogue's own; another content of the same size is not found."""
    images.look_up(image)
    other = IMAGE.model_copy(update={"blake3": "0" * 64})
    assert {IMAGE: image} == images.find(image.parent, {IMAGE, other})
    as_qcow2 = IMAGE.model_copy(update={"format": "qcow2"})
    assert images.find(image.parent, {as_qcow2}) == {}
    assert images.find(None, {IMAGE}) == {}


def test_a_search_reads_no_image(images: BaseImages, image: Path) -> None:
    """A port does not wait for a new or changed image to be read: it is not there yet."""
    assert images.find(image.parent, {IMAGE}) == {}
    images.look_up(image)
    os.utime(image, ns=(1, 1))
    assert images.find(image.parent, {IMAGE}) == {}


def test_only_files_are_published(image: Path, tmp_path: Path) -> None:
    """A link would lead out of the catalogue."""
    (tmp_path / "secret").write_bytes(CONTENT)
    (image.parent / "link").symlink_to(tmp_path / "secret")
    (image.parent / "folder").mkdir()
    assert [image] == published(image.parent)


def test_what_nobody_looks_up_is_forgotten(images: BaseImages, image: Path) -> None:
    """Only notes, and only old ones."""
    images.look_up(image)
    images.sweep(0.0)
    assert {IMAGE: image} == images.find(image.parent, {IMAGE})
    images.sweep(2.0**40)
    assert images.find(image.parent, {IMAGE}) == {}
    assert image.read_bytes() == CONTENT


def test_an_image_that_changes_while_it_is_read_is_not_known(
    images: BaseImages, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it may be the old one: no such image is asked for, and none is remembered."""
    read = images._read_whole

    def disturbed(path: Path) -> bytes:
        found = read(path)
        path.write_bytes(b"another one")
        return found

    monkeypatch.setattr(images, "_read_whole", disturbed)
    with pytest.raises(OSError, match="changed") as caught:
        images.look_up(image)
    assert caught.value.errno == errno.ESTALE
    assert not images._folder.exists()


def test_an_image_that_cannot_be_read_hides_no_other(
    images: BaseImages, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be gone in this very moment."""
    images.look_up(image)
    monkeypatch.setattr(base_images, "published", lambda _: [image.with_name("a-gone"), image])
    assert {IMAGE: image} == images.find(image.parent, {IMAGE})


async def test_a_donor_does_not_wait_for_a_large_image(
    images: BaseImages, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This port goes without; what is read meanwhile serves the next one."""
    go_on = threading.Event()
    read = images._read_whole

    def read_slowly(path: Path) -> bytes:
        assert go_on.wait(10)
        return read(path)

    monkeypatch.setattr(images, "_read_whole", read_slowly)
    monkeypatch.setattr(base_images, "KNOWN_WITHIN_S", 0.05)
    layers = {"vda": (LayerFacts(str(image), "raw"),)}
    reader = ImageReader(images)
    assert await reader.beneath(layers) is None
    go_on.set()
    monkeypatch.setattr(base_images, "KNOWN_WITHIN_S", 10)
    assert await reader.beneath(layers) == OverlaysWanted(bases={"vda": IMAGE})
    reader.close()


async def test_what_was_read_ahead_is_there(images: BaseImages, image: Path) -> None:
    """One that cannot be read does not matter to the others."""
    reader = ImageReader(images)
    await reader.read_ahead([image.with_name("gone"), image])
    assert {IMAGE: image} == images.find(image.parent, {IMAGE})
    reader.close()


async def test_the_end_of_the_process_does_not_wait_for_an_image(images: BaseImages, image: Path) -> None:
    """What is being read ends at once."""
    reader = ImageReader(images)
    reader.close()
    with pytest.raises(OSError, match="ends"):
        await asyncio.to_thread(images.look_up, image)
