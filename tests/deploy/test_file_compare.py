"""Whether two unpacked file systems of a guest that builds are told apart where, and only where, something is wrong."""

from pathlib import Path

import pytest

from deploy.labkit.file_compare import (
    OBJECT_FOLDER,
    PAGE_BYTES,
    block_of_object,
    compare_trees,
    newest_version,
    object_version,
)


def _object(number: int, version: int) -> bytes:
    blocks = 4 + (number * 7 + version * 5) % 21
    return b"".join(block_of_object(number, version, block) for block in range(blocks))


def _tree(root: Path, objects: dict[int, bytes], **files: str) -> Path:
    folder = root / OBJECT_FOLDER
    folder.mkdir(parents=True)
    for number, contents in objects.items():
        (folder / f"{number:04d}.o").write_bytes(contents)
    for name, text in files.items():
        (root / name).write_text(text)
    return root


def test_newer_objects_are_no_difference(tmp_path: Path) -> None:
    """What the guest compiled since, and a draft that it was writing, is as it should be."""
    donor = _tree(tmp_path / "a", {1: _object(1, 3), 2: _object(2, 1)}, etc="same")
    recipient = _tree(tmp_path / "b", {1: _object(1, 4), 2: _object(2, 1), 3: _object(3, 1)}, etc="same")
    (donor / OBJECT_FOLDER / "draft").write_bytes(b"half")
    found = compare_trees(donor, recipient)
    assert found.identical
    assert found.newer_objects == 2


def test_blocks_that_the_guest_still_held_may_be_empty_at_the_donor_only(tmp_path: Path) -> None:
    """A file system writes late; but at the recipient all was written out before the comparison."""
    whole = _object(5, 2)
    late = bytes(PAGE_BYTES) + whole[PAGE_BYTES:]
    assert compare_trees(_tree(tmp_path / "a", {5: late}), _tree(tmp_path / "b", {5: whole})).identical
    assert not compare_trees(_tree(tmp_path / "c", {5: whole}), _tree(tmp_path / "d", {5: late})).identical


def test_a_log_may_grow_but_not_change(tmp_path: Path) -> None:
    """What the guest's system adds to its logs is no loss; anything else about them is, and so is growth elsewhere."""

    def tree(name: str, log: str, etc: str) -> Path:
        root = _tree(tmp_path / name, {}, etc=etc)
        (root / "var/log").mkdir()
        (root / "var/log/wtmp").write_text(log)
        return root

    before = tree("a", "boot;", "x")
    assert compare_trees(before, tree("b", "boot;login;", "x")).identical
    assert compare_trees(before, tree("c", "root;login;", "x")).differences == ("var/log/wtmp",)
    assert compare_trees(before, tree("d", "boot;", "xy")).differences == ("etc",)


@pytest.mark.parametrize("damage", ["other file", "missing file", "older object", "torn object"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    """A changed or lost file, an object from before the switchover, and a torn one are differences."""
    donor = _tree(tmp_path / "a", {7: _object(7, 3)}, etc="same", other="there")
    contents = {"older object": _object(7, 2), "torn object": _object(7, 3)[:-8] + b"\1" * 8}.get(damage, _object(7, 3))
    recipient = _tree(tmp_path / "b", {7: contents}, etc="changed" if damage == "other file" else "same", other="there")
    if damage == "missing file":
        (recipient / "other").unlink()
    assert len(compare_trees(donor, recipient).differences) == 1


def test_versions_of_objects() -> None:
    """A whole object tells its version; a mixed one has none, but a newest block."""
    assert object_version(9, _object(9, 6)) == 6
    mixed = block_of_object(9, 6, 0) + block_of_object(9, 5, 1) + bytes(PAGE_BYTES)
    assert object_version(9, mixed) is None
    assert newest_version(9, mixed) == 6
    assert newest_version(9, b"\1" * PAGE_BYTES) is None
    assert newest_version(9, b"") == 0
