"""The files that the checks look at: product code and the papers that a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "shared", "vmport")
"""The packages that are installed; each module of theirs has a test file."""

PRODUCT = (*PACKAGES, "deploy")
"""Where product code is: what is installed, and what deploys it."""


def python_files(folders: tuple[str, ...], root: Path = ROOT) -> list[Path]:
    """Every Python file below the folders, relative to `root` and sorted. A folder that does not exist has none."""
    found = (path for folder in folders for path in (root / folder).rglob("*.py"))
    return sorted(path.relative_to(root) for path in found if "__pycache__" not in path.parts)


def texts(folders: tuple[str, ...], root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Every text file below the folders, and the documents at the root, with their text. Binary files are left out."""
    below = (path for folder in folders for path in (root / folder).rglob("*"))
    for path in sorted({*below, *root.glob("*.md"), root / "pyproject.toml"}):
        if path.is_file() and "__pycache__" not in path.parts:
            try:
                yield path.relative_to(root), path.read_text("utf-8")
            except UnicodeDecodeError:
                continue
