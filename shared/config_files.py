"""Files and directories that settings name, and whether a start could use them: what ``--check-config`` looks at.

A setting says what it needs by its type: `ReadFile`, `AppendedFile`, `MadeDirectory`, `UsedDirectory`.
`CheckedModel.problems` tries each of them. Nothing is made or changed here. Loading settings does not look at files;
this does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Finding:
    """One setting that a start could not use: the way to its key, and a clause that says why."""

    location: tuple[str, ...]
    what: str

    def under(self, *parts: str) -> Finding:
        """The same, seen from the table around it."""
        return Finding((*parts, *self.location), self.what)


@dataclass(frozen=True, slots=True)
class Needs:
    """Marks a path in a settings model. ``problem`` says why a path cannot be used, or None."""

    problem: Callable[[Path], str | None]


def unreadable(path: Path) -> str | None:
    """Why a file cannot be read."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None


def not_appendable(path: Path) -> str | None:
    """Why nothing can be appended to a file, which need not exist yet."""
    if path.exists():
        return None if path.is_file() and os.access(path, os.W_OK) else f"{path} cannot be written"
    if not path.parent.is_dir():
        return f"{path} cannot be made: there is no directory {path.parent}"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path} cannot be made: {path.parent} is not writable"
    return None


def not_makeable(path: Path) -> str | None:
    """Why a directory cannot be written to, or made where it is missing."""
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        return f"{path} cannot be used: {nearest} is no directory"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{path} cannot be used: {nearest} is not writable"


def not_usable(path: Path) -> str | None:
    """Why a directory that nobody makes cannot be written to."""
    if not path.is_dir():
        return f"{path} cannot be used: {'it is no directory' if path.exists() else 'it does not exist; make it first'}"
    return None if os.access(path, os.W_OK | os.X_OK) else f"{path} cannot be used: it is not writable"


ReadFile = Annotated[Path, Needs(unreadable)]
"""A file that the program reads."""
AppendedFile = Annotated[Path, Needs(not_appendable)]
"""A file that the program appends to, and makes where it is missing."""
MadeDirectory = Annotated[Path, Needs(not_makeable)]
"""A directory that the program writes to, and makes where it is missing."""
UsedDirectory = Annotated[Path, Needs(not_usable)]
"""A directory that the program writes to and that must be there."""


class CheckedModel(BaseModel):
    """Settings that can be tried out. A section with needs beyond its paths adds to `problems`."""

    def problems(self) -> list[Finding]:
        """What a start could not use, here and in the tables inside. Looks at files."""
        return list(_of_fields(self))


def problems_of_files(settings: BaseModel) -> list[Finding]:
    """The same for a model that is no `CheckedModel`, with those inside it."""
    return list(_of_fields(settings))


def _of_fields(model: BaseModel) -> Iterator[Finding]:
    for name, field in type(model).model_fields.items():
        needs = [*_needs(field.metadata), *_needs_inside(field.annotation)]
        yield from (finding.under(name) for finding in _of_value(getattr(model, name), needs))


def _of_value(value: Any, needs: list[Needs]) -> Iterator[Finding]:
    match value:
        case CheckedModel():
            yield from value.problems()
        case Path():
            yield from (Finding((), what) for need in needs if (what := need.problem(value)) is not None)
        case Mapping():
            for key, entry in value.items():
                yield from (finding.under(str(key)) for finding in _of_value(entry, needs))
        case tuple() | list():
            for index, entry in enumerate(value):
                yield from (finding.under(str(index)) for finding in _of_value(entry, needs))


def _needs(metadata: Any) -> list[Needs]:
    return [mark for mark in metadata if isinstance(mark, Needs)]


def _needs_inside(annotation: Any) -> list[Needs]:
    """Marks inside a union or a container."""
    found = _needs(getattr(annotation, "__metadata__", ()))
    for part in get_args(annotation):
        found += _needs_inside(part)
    return found
