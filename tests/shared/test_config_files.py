"""Files that settings name, tried before a start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.config import LogSettings
from shared.config_files import (
    CheckedModel,
    Finding,
    MadeDirectory,
    ReadFile,
    not_appendable,
    not_makeable,
    not_usable,
    problems_of_files,
    unreadable,
)


class Inner(CheckedModel):
    one: ReadFile
    maybe: ReadFile | None = None
    plain: Path = Path("/no/one/looks")


class Special(CheckedModel):
    """A section with a need of its own."""

    def problems(self) -> list[Finding]:
        return [Finding(("own",), "is wrong")]


class Outer(CheckedModel):
    inner: Inner
    by_name: dict[str, ReadFile] = {}
    many: tuple[ReadFile, ...] = ()
    made: MadeDirectory = Path("/")
    special: Special | None = None


def test_every_marked_path_is_tried(tmp_path: Path) -> None:
    """In tables, lists and unions; what is not marked, or not set, is left alone."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.touch()
    what = f"{bad} cannot be read: No such file or directory"
    model = Outer(inner=Inner(one=good, maybe=bad), by_name={"a": good, "b": bad}, many=(bad, good), special=Special())
    assert problems_of_files(model) == [
        Finding(("inner", "maybe"), what),
        Finding(("by_name", "b"), what),
        Finding(("many", "0"), what),
        Finding(("special", "own"), "is wrong"),
    ]
    assert Outer(inner=Inner(one=good)).problems() == []


def test_reading(tmp_path: Path) -> None:
    """A file can be read, a directory and nothing cannot."""
    (tmp_path / "file").touch()
    assert unreadable(tmp_path / "file") is None
    assert unreadable(tmp_path) == f"{tmp_path} cannot be read: Is a directory"
    assert unreadable(tmp_path / "none") == f"{tmp_path}/none cannot be read: No such file or directory"


def test_appending(tmp_path: Path) -> None:
    """A log file may be made, its directory not."""
    (tmp_path / "old").touch()
    assert not_appendable(tmp_path / "old") is None
    assert not_appendable(tmp_path / "new") is None
    assert not_appendable(tmp_path) == f"{tmp_path} cannot be written"
    lost = tmp_path / "no" / "x.log"
    assert not_appendable(lost) == f"{lost} cannot be made: there is no directory {tmp_path}/no"
    assert LogSettings(file=lost).problems() == [Finding(("file",), not_appendable(lost) or "")]


def test_making_a_directory(tmp_path: Path) -> None:
    """With all its parents, unless one is a file."""
    (tmp_path / "file").touch()
    assert not_makeable(tmp_path / "a" / "b") is None
    assert not_makeable(tmp_path) is None
    below = tmp_path / "file" / "a"
    assert not_makeable(below) == f"{below} cannot be used: {tmp_path}/file is no directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_rights_are_looked_at(tmp_path: Path) -> None:
    """A directory of somebody else."""
    tmp_path.chmod(0o500)
    assert not_makeable(tmp_path / "a") == f"{tmp_path}/a cannot be used: {tmp_path} is not writable"
    assert not_appendable(tmp_path / "a") == f"{tmp_path}/a cannot be made: {tmp_path} is not writable"


def test_a_directory_that_nobody_makes(tmp_path: Path) -> None:
    """It must be there, and be a directory."""
    (tmp_path / "file").touch()
    assert not_usable(tmp_path) is None
    assert not_usable(tmp_path / "none") == f"{tmp_path}/none cannot be used: it does not exist; make it first"
    assert not_usable(tmp_path / "file") == f"{tmp_path}/file cannot be used: it is no directory"
