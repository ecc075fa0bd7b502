"""Check that each module of services, shared and vmport has a test file of its own: a/b.py has tests/a/test_b.py.

`without_test_file.toml` lists the exceptions in groups, each with its reason and, where other test files cover the
modules, with their paths. An exception is stale, and an error, when the module has its test file, or when the module or
a path does not exist. `__init__.py` needs no test file: it holds no code but imports and names.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.checks.sources import PACKAGES, python_files

EXCEPTIONS = Path(__file__).with_name("without_test_file.toml")


@dataclass(frozen=True)
class Exceptions:
    """Modules that need no test file of their own, for one reason."""

    reason: str
    modules: tuple[str, ...]
    covered_by: tuple[str, ...] = ()
    """Test files, or folders of them, that test the modules instead."""


def read_exceptions(text: str) -> list[Exceptions]:
    """Read the TOML list of exceptions. Raises `ValueError` for a group with other keys, `KeyError` without a list."""
    groups: list[dict[str, Any]] = tomllib.loads(text)["exceptions"]
    for group in groups:
        if not {"reason", "modules"} <= group.keys() <= {"reason", "modules", "covered_by"}:
            raise ValueError(f"not a group of exceptions: {group}")
    return [
        Exceptions(group["reason"], tuple(group["modules"]), tuple(group.get("covered_by", ()))) for group in groups
    ]


def test_file_of(module: str) -> str:
    """Where the tests of a module are."""
    folder, _, name = module.rpartition("/")
    return f"tests/{folder}/test_{name}"


def problems(modules: Iterable[str], tests: Collection[str], exceptions: Sequence[Exceptions]) -> list[str]:
    """What is wrong, a sentence each: modules without a test file, and exceptions that are stale or give no reason.

    `tests` are the paths of all test files. All paths are relative to the root, with slashes.
    """
    wanted = {module: test_file_of(module) for module in modules if not module.endswith("/__init__.py")}
    excepted = [module for group in exceptions for module in group.modules]
    found = [
        f"{module} has no {test}" for module, test in wanted.items() if test not in tests and module not in excepted
    ]
    for module in excepted:
        if module not in wanted:
            found.append(f"{module} is an exception, but there is no such module")
        elif wanted[module] in tests:
            found.append(f"{module} is an exception, but it has {wanted[module]}")
        if excepted.count(module) > 1:
            found.append(f"{module} is an exception twice")
    for group in exceptions:
        if not group.reason.strip():
            found.append(f"{', '.join(group.modules)}: an exception without a reason")
        found += [
            f"{path} is said to cover modules, but does not exist"
            for path in group.covered_by
            if not any(test == path or test.startswith(f"{path}/") for test in tests)
        ]
    return found


def main() -> int:
    """Print every problem; 1 if there is one."""
    modules = [path.as_posix() for path in python_files(PACKAGES)]
    tests = {path.as_posix() for path in python_files(("tests",)) if path.name.startswith("test_")}
    exceptions = read_exceptions(EXCEPTIONS.read_text("utf-8"))
    found = problems(modules, tests, exceptions)
    for sentence in found:
        print(sentence)
    if not found:
        number = sum(len(group.modules) for group in exceptions)
        print(f"every module has its test file, but for {number} exceptions")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
