"""Check that each module of services, shared and vmport has a test file of its own: a/b.py has tests/a/test_b.py.

`untested.toml` names the exceptions, each with its reason. An exception is stale, and an error, when the module has
its test file or does not exist. `__init__.py` needs no test file: it holds no code but imports, or declarations.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.checks.sources import PACKAGES, ROOT, python_files

EXCEPTIONS = Path(__file__).with_name("untested.toml")


def test_file_of(module: Path) -> Path:
    """Where the tests of a module are."""
    return Path("tests") / module.parent / f"test_{module.name}"


def problems(modules: Iterable[Path], tests: Iterable[Path], exceptions: Mapping[str, str]) -> list[str]:
    """What is wrong, a sentence each: modules without a test file, and exceptions that are stale or give no reason."""
    wanted = {module.as_posix(): test_file_of(module) for module in modules if module.name != "__init__.py"}
    present = set(tests)
    found = [
        f"{module} has no {test}"
        for module, test in wanted.items()
        if test not in present and module not in exceptions
    ]
    for module, reason in exceptions.items():
        if module not in wanted:
            found.append(f"{module} is an exception, but there is no such module")
        elif wanted[module] in present:
            found.append(f"{module} is an exception, but it has {wanted[module]}")
        if not reason.strip():
            found.append(f"{module} is an exception without a reason")
    return found


def main() -> int:
    """Print every problem; 1 if there is one."""
    modules = python_files(PACKAGES)
    exceptions: dict[str, str] = tomllib.loads(EXCEPTIONS.read_text("utf-8"))["untested"]
    found = problems(modules, python_files(("tests",)), exceptions)
    for sentence in found:
        print(sentence)
    if not found:
        print(f"each of {len(modules)} modules has its test file, or is one of {len(exceptions)} exceptions")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
