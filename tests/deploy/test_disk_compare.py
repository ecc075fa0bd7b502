"""Comparing a donor's image with that of the recipient."""

from pathlib import Path

import pytest

from deploy.labkit import disk_compare
from deploy.labkit.disk_compare import BLOCK_BYTES, Region, block_contents, block_version, compare

MIB = 1 << 20
REGION = Region(offset=MIB, size=MIB)


@pytest.fixture(autouse=True)
def _images_are_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """No qemu-img in unit tests: every image here is raw."""
    monkeypatch.setattr(disk_compare, "run", lambda _argv: '{"format": "raw"}')


def _images(folder: Path) -> tuple[Path, Path]:
    contents = b"static" * (MIB // 6 + 1)
    data = bytearray(contents[:MIB] + bytes(MIB) + contents[:MIB])
    data[MIB : MIB + BLOCK_BYTES] = block_contents(0, 5)
    donor, recipient = folder / "donor.raw", folder / "recipient.raw"
    donor.write_bytes(data)
    recipient.write_bytes(data)
    return donor, recipient


def _overwrite(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as handle:
        handle.seek(offset)
        handle.write(data)


def test_equal_images_are_identical(tmp_path: Path) -> None:
    """All bytes are compared, and none differs."""
    found = compare(*_images(tmp_path), REGION)
    assert found.identical
    assert found.compared_bytes == 3 * MIB
    assert found.rewritten_blocks == 0


def test_blocks_that_the_guest_wrote_since_are_no_difference(tmp_path: Path) -> None:
    """A whole block of a newer version, or a first one, is what a guest that runs on writes."""
    donor, recipient = _images(tmp_path)
    _overwrite(recipient, MIB, block_contents(0, 6))
    _overwrite(recipient, MIB + BLOCK_BYTES, block_contents(1, 7))
    found = compare(donor, recipient, REGION)
    assert found.identical
    assert found.rewritten_blocks == 2


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (10, b"x"),
        (2 * MIB + 5, b"x"),
        (MIB, block_contents(0, 4)),
        (MIB, block_contents(1, 6)),
        (MIB, block_contents(0, 6)[: BLOCK_BYTES // 2]),
        (MIB, bytes(BLOCK_BYTES)),
    ],
    ids=["before", "after", "older", "misplaced", "torn", "lost"],
)
def test_any_other_difference_is_found(tmp_path: Path, offset: int, data: bytes) -> None:
    """A changed static byte, an older, misplaced, torn or lost block is a difference, at its block's offset."""
    donor, recipient = _images(tmp_path)
    _overwrite(recipient, offset, data)
    found = compare(donor, recipient, REGION)
    assert found.differences == (offset // BLOCK_BYTES * BLOCK_BYTES,)


def test_images_of_different_size_differ(tmp_path: Path) -> None:
    """Even if the shorter one is a prefix of the longer."""
    donor, recipient = _images(tmp_path)
    with recipient.open("ab") as handle:
        handle.write(b"\0")
    assert not compare(donor, recipient, REGION).identical


def test_a_block_tells_its_version() -> None:
    """Contents and version belong together; zeros are version 0."""
    assert block_version(3, block_contents(3, 9)) == 9
    assert block_version(3, bytes(BLOCK_BYTES)) == 0
    assert block_version(4, block_contents(3, 9)) is None
